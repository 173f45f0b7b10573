"""Half of what the server can do, in every way there is, for most of ten minutes: does anything grow?

Clients send, take, lease, acknowledge, release, wait, look on, and come and go in good manners and bad. They are
slowed down or hurried so that the server uses half of its core. What it holds is noted all the time; after a
minute for warming up, and once its memory has levelled off, a line is fitted through it. In the end they leave,
and what was open at the start may be open then.
"""

from __future__ import annotations

import random
import tempfile
from collections import Counter
from math import sqrt
from operator import attrgetter
from pathlib import Path
from typing import NamedTuple

import msgspec
import trio

from bench import rig
from bench.torture.exhaust import State
from bench.torture.overload import post
from bench.torture.probe import PATIENCE, exchange
from bench.torture.report import Report
from bench.torture.server import Server, running
from tests.support.wire import vanish
from zapq.limits import KIB, MIB

WARMING = 60.0
SECONDS = 500.0
LEVEL_SECONDS = 30.0
MOST_LEVELLING = 300.0
"""Seconds to wait at most, beyond `WARMING`, until no process of zapq has grown by half of `MIB_A_MINUTE` for
`LEVEL_SECONDS`. That does not scale.

What warms up grows as a leak does, but not for ever. A front end of Valkey reads answers of all sizes, and for
some two minutes its heap has no gap that fits the next one. By then it has grown by 2.5 MiB and uses none of that:
Python has as many objects as before, and malloc has given out as much. A leak never levels off, so it is measured
then.
"""
CLIENTS = 40
HALF = 0.5
"""Of a core."""
MIB_A_MINUTE = 1.0
"""Of each process."""
OPEN_A_MINUTE = 1.0
"""Descriptors or tasks."""
SAMPLES_A_SECOND = 2
QUEUES = ("default", "emails", "orders")
LONGEST_WAIT = 2.0
ANSWERS = {200, 202, 204, 404, 409, 429}
"""404: a receipt of a queue nobody has used yet."""


class Throttle:
    """How long clients pause between two requests."""

    def __init__(self) -> None:
        self.pause = 0.01

    async def steer(self, server: Server) -> None:
        """Keep the server at half of a core until cancelled."""
        while True:
            used, begun = server.cpu_seconds(), trio.current_time()
            await trio.sleep(1)
            share = (server.cpu_seconds() - used) / (trio.current_time() - begun)
            self.pause = min(max(self.pause * (share / HALF) ** 0.5, 0.0005), 1.0)


class Customer:
    """A client that does something else each time."""

    def __init__(self, port: int, rng: random.Random, throttle: Throttle, answers: Counter[int]) -> None:
        self._port = port
        self._rng = rng
        self._throttle = throttle
        self._answers = answers
        self._stream: trio.SocketStream | None = None
        self.hung = 0

    async def run(self) -> None:
        """Go on until cancelled."""
        doings = (
            *(self.send, self.take, self.lease) * 6,
            *(self.send_many, self.lease_many, self.wait, self.look) * 2,
            self.send_specially,
            self.leave,
            self.break_off,
        )
        try:
            while True:
                with trio.move_on_after(LONGEST_WAIT + PATIENCE) as patience:
                    await self._rng.choice(doings)(self._rng.choice(QUEUES))
                if patience.cancelled_caught:
                    self.hung += 1
                    await self.leave()
                await trio.sleep(self._throttle.pause * self._rng.uniform(0.5, 1.5))
        finally:
            with trio.CancelScope(shield=True):
                await self.leave()

    async def ask(self, request: bytes) -> tuple[int, bytes, bytes]:
        """Send a request, on a new connection if there is none, and return status, head and body."""
        if self._stream is None:
            self._stream = await trio.open_tcp_stream("127.0.0.1", self._port)
        answer = await exchange(self._stream, request)
        self._answers[answer[0]] += 1
        return answer

    async def send(self, queue: str) -> None:
        """Enqueue a message."""
        target = "/enqueue" if self._rng.random() < 0.3 else f"/queues/{queue}/messages"
        await self.ask(post(target, self._body()))

    async def send_specially(self, queue: str) -> None:
        """Enqueue one that is delayed, or mortal, or urgent, or must not be there twice."""
        options = self._rng.choice(("delay=0.5", "ttl=2", "priority=7", "priority=9&ttl=5&delay=0.1"))
        request = post(f"/queues/{queue}/messages?{options}", self._body())
        if self._rng.random() < 0.2:
            key = b"\r\nIdempotency-Key: k%d\r\n" % self._rng.randrange(1000)
            request = post(f"/queues/{queue}/messages", b"the same").replace(b"\r\n", key, 1)
        await self.ask(request)

    async def send_many(self, queue: str) -> None:
        """Enqueue a batch."""
        batch = msgspec.msgpack.encode([self._body() for _ in range(self._rng.randrange(1, 20))])
        await self.ask(post(f"/queues/{queue}/messages/batch", batch, "application/msgpack"))

    async def take(self, queue: str) -> None:
        """Take messages until there is none, or for a while."""
        for _ in range(self._rng.randrange(1, 5)):
            if (await self.ask(post(f"/queues/{queue}/receive?ack=auto", b"")))[0] == 204:
                break
        await self.ask(b"GET /dequeue HTTP/1.1\r\nHost: localhost\r\n\r\n")

    async def lease(self, queue: str) -> None:
        """Lease a message, and end it in one of the ways there are."""
        status, head, _ = await self.ask(post(f"/queues/{queue}/receive?visibility=3", b""))
        if status != 200:
            return
        receipt = next(
            line[14:].strip() for line in head.split(b"\r\n") if line.startswith(b"Zapq-Receipt:")
        ).decode()
        path = f"/queues/{queue}/receipts/{receipt}"
        match self._rng.randrange(10):
            case 0:
                await self.ask(post(f"{path}/release", b""))
            case 1:
                await self.ask(post(f"{path}/extend?visibility=1", b""))
            case 2:
                pass  # it runs out
            case _:
                for _ in range(self._rng.choice((1, 1, 1, 2))):
                    await self.ask(f"DELETE {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())

    async def lease_many(self, queue: str) -> None:
        """Lease a batch and settle it."""
        status, _, body = await self.ask(post(f"/queues/{queue}/receive/batch?max=50&visibility=5", b""))
        if status == 200:
            receipts = [each["receipt"] for each in msgspec.json.decode(body)]
            entries = [{"action": "ack", "receipt": receipt} for receipt in receipts]
            await self.ask(post(f"/queues/{queue}/settle", msgspec.json.encode(entries), "application/json"))

    async def wait(self, queue: str) -> None:
        """Wait for a message."""
        seconds = self._rng.uniform(0.05, LONGEST_WAIT)
        await self.ask(post(f"/queues/{queue}/receive?ack=auto&wait={seconds:.2f}", b""))

    async def look(self, queue: str) -> None:
        """Ask what there is."""
        target = self._rng.choice((
            "/health",
            "/metrics",
            "/queues",
            f"/queues/{queue}",
            f"/queues/{queue}/messages",
        ))
        await self.ask(f"GET {target} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())

    async def break_off(self, queue: str) -> None:
        """Leave in the middle of something, with a reset or without."""
        request = self._rng.choice((
            post(f"/queues/{queue}/messages", self._body()),
            post(f"/queues/{queue}/receive?wait=1", b""),
            b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n",
        ))
        if self._stream is None:
            self._stream = await trio.open_tcp_stream("127.0.0.1", self._port)
        await self._stream.send_all(request[: self._rng.randrange(1, len(request) + 1)])
        if self._rng.random() < 0.5:
            vanish(self._stream)
        await self.leave()

    async def leave(self, queue: str = "") -> None:
        """Close the connection; the next request opens another."""
        if self._stream is not None:
            stream, self._stream = self._stream, None
            await trio.aclose_forcefully(stream)

    def _body(self) -> bytes:
        return bytes(self._rng.choice((0, 20, 128, 1 * KIB, 1 * KIB, 8 * KIB, self._rng.randrange(100 * KIB))))


async def run(seed: int, scale: float) -> Report:
    """Soak a server and see what grows."""
    report = Report()
    answers: Counter[int] = Counter()
    throttle = Throttle()
    samples: list[Sample] = []
    # So small that it is full now and then: then what it holds is no reason to grow.
    flags = ("--max-msgs", "1000", "--max-bytes", "32M")
    with tempfile.TemporaryDirectory() as directory:
        async with running(Path(directory), *flags, wrapper=rig.cores()[0]) as server:
            for queue in QUEUES:
                await server.ask("POST", f"/queues/{queue}/messages", b"first")
            before = await State.of(server)
            customers = [
                Customer(server.port, random.Random(f"{seed} {number}"), throttle, answers)
                for number in range(CLIENTS)
            ]
            used = server.cpu_seconds()
            begun = trio.current_time()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(throttle.steer, server)
                for customer in customers:
                    nursery.start_soon(customer.run)
                await trio.sleep(WARMING * scale)
                # A run that is shorter than that tells what stays open, not what grows.
                levelled = await _level_off(server) if SECONDS * scale > LEVEL_SECONDS else 0.0
                await _sample(server, SECONDS * scale, samples)
                nursery.cancel_scope.cancel()
            seconds = trio.current_time() - begun
            share = (server.cpu_seconds() - used) / seconds
            recovered = await State.wait_for(before, server)
            metrics = await server.metrics()
            code = await server.stop()
            complaints = server.complaints()
    held = [
        sure_slope([
            (some[0].seconds / 60, min(each.held_mib[process] for each in some)) for some in together(samples)
        ])
        for process in range(len(samples[0].held_mib))
    ]
    descriptors = sure_slope([(each.seconds / 60, each.descriptors) for each in lowest(samples, "descriptors")])
    tasks = sure_slope([(each.seconds / 60, each.tasks) for each in lowest(samples, "tasks")])
    hung = sum(customer.hung for customer in customers)
    report.figures |= {
        "answers": {str(status): number for status, number in sorted(answers.items())},
        "answers_per_second": round(answers.total() / seconds),
        "cpu_share": round(share, 2),
        "levelled_off_after": round(levelled, 1),
        "held_mib": [samples[len(samples) * quarter // 4 - 1].held_mib for quarter in (1, 2, 3, 4)],
        "held_mib_a_minute": [round(each, 3) for each in held],
        "descriptors_a_minute": round(descriptors, 3),
        "tasks_a_minute": round(tasks, 3),
        "back_to_start_after": round(recovered, 2),
        "exit_code": code,
    }
    strange = set(answers) - ANSWERS
    report.expect(not strange, f"answered {sorted(strange)}")
    report.expect(not hung, f"{hung} times a client was left hanging")
    report.expect(recovered >= 0, "descriptors, tasks or connections did not come back to what they were")
    report.expect(not metrics["connection_errors"], "connections ended by errors of the server's own")
    report.expect(not complaints, f"logged: {complaints[:3]}")
    report.expect(code == 0, f"ended with {code}")
    fastest = max(held)
    report.expect_figure(fastest < MIB_A_MINUTE, f"memory of a process grows by {fastest:.2f} MiB a minute")
    report.expect_figure(descriptors < OPEN_A_MINUTE, f"descriptors grow by {descriptors:.2f} a minute")
    report.expect_figure(tasks < OPEN_A_MINUTE, f"tasks grow by {tasks:.2f} a minute")
    return report


class Sample(NamedTuple):
    """What a server held at one moment."""

    seconds: float
    held_mib: list[float]
    """By each of its processes."""
    descriptors: float
    tasks: float


async def _level_off(server: Server) -> float:
    """Wait until the memory of zapq's processes hardly grows; returns the seconds, or `MOST_LEVELLING`."""
    begun = trio.current_time()
    before = server.resident_bytes_of_each()[: -1 if server.engine else None]
    with trio.move_on_after(MOST_LEVELLING):
        while True:
            await trio.sleep(LEVEL_SECONDS)
            now = server.resident_bytes_of_each()[: len(before)]
            grown = max(new - old for new, old in zip(now, before, strict=True)) / MIB
            if grown < MIB_A_MINUTE / 2 * LEVEL_SECONDS / 60:
                break
            before = now
    return trio.current_time() - begun


async def _sample(server: Server, seconds: float, samples: list[Sample]) -> None:
    """Note what the server holds again and again."""
    begun = trio.current_time()
    while (elapsed := trio.current_time() - begun) < seconds:
        tasks = (await server.metrics())["goroutines"]
        held = [round(each / MIB, 1) for each in server.held_bytes_of_each()]
        samples.append(Sample(elapsed, held, server.descriptors(), tasks))
        await trio.sleep(1 / SAMPLES_A_SECOND)


def lowest(samples: list[Sample], name: str) -> list[Sample]:
    """Return the sample of each few seconds that has the least: what comes and goes is not what grows."""
    return [min(some, key=attrgetter(name)) for some in together(samples)]


def together(samples: list[Sample]) -> list[list[Sample]]:
    """Return the samples of each few seconds."""
    number = 5 * SAMPLES_A_SECOND
    return [samples[at : at + number] for at in range(0, len(samples), number)]


def slope(points: list[tuple[float, float]]) -> float:
    """Return by how much the second numbers grow for each unit of the first ones, by least squares."""
    times, values = [each[0] for each in points], [each[1] for each in points]
    mean, level = sum(times) / len(times), sum(values) / len(values)
    spread = sum((each - mean) ** 2 for each in times)
    return sum((each - mean) * (value - level) for each, value in zip(times, values, strict=True)) / (
        spread or 1.0
    )


def sure_slope(points: list[tuple[float, float]]) -> float:
    """Return that growth less three times its standard error, or 0 if chance alone may have made it.

    A short run has few points, and requests come and go: ten tasks or 3 MiB a minute may be no growth then.
    """
    times, values = [each[0] for each in points], [each[1] for each in points]
    mean, level, growth = sum(times) / len(times), sum(values) / len(values), slope(points)
    spread = sum((each - mean) ** 2 for each in times)
    around = sum((value - level - growth * (each - mean)) ** 2 for each, value in zip(times, values, strict=True))
    error = sqrt(around / max(len(points) - 2, 1) / (spread or 1.0))
    return max(growth - 3 * error, 0.0)
