"""A worker that must not lose a message: each is done at least once, however often the worker is killed.

A message is leased, and acknowledged once the work is done. Work that fails is tried again later, after 2, 4, 8
and 16 s; when it has failed five times, the message goes to `emails-dead`, until it is sent back. SIGTERM, which
docker and systemd send, and Ctrl-C have it end the work it has begun, and take no more.

    python examples/worker.py http://127.0.0.1:8080
"""

import signal
import sys

import trio

import zapq.client


async def send_mail(lease: zapq.client.HeldLease) -> None:
    """Do the work. If this worker is killed right after it, another one does it once more: make that harmless."""
    try:
        if lease.body == b"broken":
            raise ConnectionError("the mail server is away")
        print("sent", lease.body.decode(), flush=True)
    except ConnectionError:
        await lease.release(delay=2**lease.receive_count)


async def main(url: str) -> None:
    """Work until it is stopped: eight messages at once, leased for 30 s and extended while in work."""
    stop = trio.Event()

    async def watch_signals(task_status: trio.TaskStatus[None]) -> None:
        with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
            task_status.started()
            await anext(signals)
            stop.set()

    async with zapq.client.open_client(url) as client, trio.open_nursery() as nursery:
        await nursery.start(watch_signals)
        await client.change_settings("emails", {"max_receives": 5, "dead_letter": "emails-dead"})
        await client.consume_with("emails", send_mail, concurrency=8, visibility=30, stop=stop)


if __name__ == "__main__":
    trio.run(main, sys.argv[1])
