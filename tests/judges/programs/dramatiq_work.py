"""dramatiq_sqs: actors of two queues, one that fails at first, a delay, a message that is too large."""

from __future__ import annotations

import threading
import time
from collections import Counter

import dramatiq
from dramatiq.middleware import Retries
from dramatiq_sqs import SQSBroker

broker = SQSBroker(namespace="judged", middleware=[Retries(min_backoff=100, max_backoff=500, max_retries=5)])
dramatiq.set_broker(broker)
done: Counter[str] = Counter()
lock = threading.Lock()


def note(what: str) -> None:
    """Write down that a message is done."""
    with lock:
        done[what] += 1


@dramatiq.actor(queue_name="first")  # type: ignore[untyped-decorator]  # it is not installed where types are checked
def work(number: int) -> None:
    """Do some work."""
    note(f"work {number}")


@dramatiq.actor(queue_name="second")  # type: ignore[untyped-decorator]  # it is not installed where types are checked
def fail_once(number: int) -> None:
    """Fail, and work when it is tried again."""
    note(f"tried {number}")
    if done[f"tried {number}"] < 2:
        raise RuntimeError("to be tried again")


def wait_for(number: int) -> None:
    """Return once so many messages are done."""
    deadline = time.monotonic() + 120
    while done.total() < number:
        assert time.monotonic() < deadline, done
        time.sleep(0.05)


worker = dramatiq.Worker(broker, worker_threads=4)
worker.start()
for number in range(30):
    work.send(number)
for number in range(5):
    fail_once.send(number)
wait_for(40)
begun = time.monotonic()
work.send_with_options(args=(30,), delay=1000)
wait_for(41)
assert time.monotonic() - begun >= 0.9
assert done == Counter(
    {f"work {number}": 1 for number in range(31)} | {f"tried {number}": 2 for number in range(5)}
)
try:
    work.send("x" * 2 * 1024 * 1024)
except RuntimeError:
    pass
else:
    raise AssertionError("a message of two MiB was taken")
worker.stop()
for queue in broker.queues.values():
    queue.delete()
print("judged well")
