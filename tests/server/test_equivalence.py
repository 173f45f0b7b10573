"""The hot path cannot be told from the long way: the same bytes to both, and everything that can be seen compared.

Three servers get the same bytes in the same pieces: one without the hot path, one with it, and one with it over
TLS. They go on listening; the queues behind them are new for each conversation.
"""

from __future__ import annotations

import itertools
import re
import secrets
import threading
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from random import Random
from typing import Any, cast

import msgspec
import pytest
import trio
from hypothesis import HealthCheck, event, example, given, settings
from hypothesis import strategies as st
from trio.testing import wait_all_tasks_blocked

import zapq
from tests.server.vocabulary import (
    BATCHES,
    DEFAULT,
    FOREIGN_HOSTS,
    HARMLESS,
    HOSTS,
    LARGEST,
    LINES,
    ODD,
    ODD_HOSTS,
    ODD_LINES,
    SENDING,
    SETTLING,
    TAG,
    TAKING,
)
from tests.support.certificates import write_certificate
from tests.support.wire import Stream, connect
from tests.thorough import is_as_long_as
from zapq.core.headers import Headers
from zapq.core.queue_settings import QueueSettings
from zapq.core.stats import STATES
from zapq.http import problems
from zapq.service.open import open_service
from zapq.service.service import QueueService
from zapq.settings import Settings

VARYING = [
    (rb"(?i)date: [^\r]*", b"Date: -"),
    (rb"[0-9]+-[0-9a-f]{6}", b"ID"),
    (rb"Retry-After: [0-9]+", b"Retry-After: -"),
    (rb"Until: [0-9TZ:.-]{24}\r", b"Until: -\r"),
    (rb"Visible-In: [0-9]+\.[0-9]", b"Visible-In: -"),
    (rb"(visible|expires)_in\":[0-9.]+", b"in"),
    (rb"_age_seconds\":[0-9.]+", b"age"),
]


WITH_A_TIME = (
    rb"(?i)content-length: [0-9]+(?=\r\n(?:[^\r\n]+\r\n)*\r\n"
    rb'[\[{](?:(?!HTTP/1\.1 ).)*?(?:_in|_age_seconds)":[0-9.])'
)
"""The length of an answer that says how long something will last, or has: so does its length."""


@dataclass(frozen=True)
class Conversation:
    """What one client sends, in which pieces, to a queue that holds `held` messages."""

    held: int
    pieces: tuple[bytes, ...]
    half_close: bool


@dataclass(frozen=True)
class Outcome:
    """What can be seen of a conversation: by its client, and in the queue."""

    answer: bytes
    closed: bool
    held: dict[str, list[tuple[bytes, Headers]]]
    counts: tuple[int, ...]


@dataclass
class Wire:
    """The client's end of a connection."""

    stream: Stream
    received: bytearray = field(default_factory=bytearray)
    closed: bool = False

    async def listen(self) -> None:
        try:
            while data := await self.stream.receive_some():
                self.received += data
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass
        self.closed = True

    async def say(self, piece: bytes) -> None:
        with suppress(trio.BrokenResourceError):  # closed by the server, which is what we are here to see
            await self.stream.send_all(piece)

    async def end(self) -> None:
        if isinstance(self.stream, trio.SocketStream):  # in TLS it is the end of both halves
            with suppress(trio.BrokenResourceError):
                await self.stream.send_eof()

    def close(self) -> None:
        stream = self.stream
        (stream if isinstance(stream, trio.SocketStream) else stream.transport_stream).socket.close()


class Latest:
    """Stands for what `find` returns at the moment something of it is wanted."""

    def __init__(self, find: Callable[[], object]) -> None:
        self._find = find

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._find(), name)
        # Servers remember methods.
        return (lambda *given: getattr(self._find(), name)(*given)) if callable(value) else value


class LatestService(Latest):
    """The service of the conversation that is under way, for a server that outlives it."""

    def __init__(self, find: Callable[[], QueueService]) -> None:
        super().__init__(find)
        # The fast road remembers it.
        self.dispatcher = Latest(lambda: find().dispatcher)


class Target:
    """One of the servers, and the service behind it at the moment."""

    url: str
    service: QueueService

    async def start(self, nursery: trio.Nursery, settings: Settings) -> None:
        """Serve, for as long as `nursery` is open, with the service that `renew` has opened last."""
        service = cast("QueueService", LatestService(lambda: self.service))
        [self.url] = await nursery.start(partial(zapq.serve, settings, service=service))

    async def open(self) -> Wire:
        return Wire(await connect(self.url))

    @asynccontextmanager
    async def renewed(self, settings: Settings, held: int = 0) -> AsyncGenerator[None, None]:
        """Have a new service, with `held` messages in it, for the length of the block."""
        async with open_service(settings) as self.service:
            await self.service.configure("other", QueueSettings(max_messages=2))
            for number in range(held):
                self.service.enqueue_nowait(b"held %d" % number)
            yield

    def outcome(self, wire: Wire) -> Outcome:
        answer = re.sub(rb"HTTP/1.1 [0-9]{3} .*?\r\n\r\n", without_the_id, bytes(wire.received), flags=re.DOTALL)
        answer = re.sub(WITH_A_TIME, b"Content-Length: -", answer, flags=re.DOTALL)
        for pattern, name in VARYING:
            answer = re.sub(pattern, name, answer)
        stats = self.service.stats()
        held = {
            name: [
                (each.message.body, each.message.properties.headers)
                for state in STATES
                for each in queue.peek(state, 100)
            ]
            for name, queue in self.service.broker.queues.items()
        }
        counts = (
            *msgspec.structs.astuple(stats.queue),
            stats.dequeues_empty,
            stats.delivery_uncertain,
            stats.waiting,
        )
        return Outcome(answer, wire.closed, held, counts)


def without_the_id(head: re.Match[bytes]) -> bytes:
    """A problem names its trace id, and one server may have given more of them: leave it out of the length."""
    trace_id = re.search(rb"(?i)\r\nx-trace-id: ([^\r]*)", head[0])
    if trace_id is None or problems.MEDIA_TYPE.encode() not in head[0]:
        return head[0]
    added = len(trace_id[1])
    return re.sub(
        rb"(?i)(?<=\r\ncontent-length: )[0-9]+", lambda length: b"%d" % (int(length[0]) - added), head[0]
    )


class Stage:
    """The servers, in a thread of their own for as long as the tests last."""

    def __init__(self, directory: str) -> None:
        self._settings = Settings(
            addr="127.0.0.1:0",
            data_dir=directory,
            max_msgs=4,
            max_bytes=100,
            max_queues=4,
            max_message_bytes=LARGEST,
            log_level="error",
        )
        self._cold, self._lobby, self._tls = self._targets = Target(), Target(), Target()
        certificate, key = write_certificate(Path(directory))
        self._tls_settings = replace(self._settings, tls_cert=certificate, tls_key=key)
        self._started: SimpleQueue[trio.lowlevel.TrioToken] = SimpleQueue()
        self._over = trio.Event()
        self._thread = threading.Thread(target=trio.run, args=(self._serve,))

    def open(self) -> None:
        self._thread.start()
        self._token = self._started.get()

    def close(self) -> None:
        trio.from_thread.run_sync(self._over.set, trio_token=self._token)
        self._thread.join()

    def play(self, conversation: Conversation) -> list[Outcome]:
        return trio.from_thread.run(self._play, conversation, trio_token=self._token)

    async def _serve(self) -> None:
        async with self._renewed(), trio.open_nursery() as nursery:
            await self._cold.start(nursery, replace(self._settings, hot_path=False))
            await self._lobby.start(nursery, self._settings)
            await self._tls.start(nursery, self._tls_settings)
            self._started.put(trio.lowlevel.current_trio_token())
            await self._over.wait()
            nursery.cancel_scope.cancel()

    @asynccontextmanager
    async def _renewed(self, held: int = 0) -> AsyncGenerator[None, None]:
        """Have new services behind the servers, which give the same receipts, for the length of the block."""
        async with AsyncExitStack() as stack:
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(secrets, "token_hex", lambda size: TAG)
                for target in self._targets:
                    await stack.enter_async_context(target.renewed(self._settings, held))
            yield

    async def _play(self, conversation: Conversation) -> list[Outcome]:
        async with self._renewed(conversation.held):
            wires = [await target.open() for target in self._targets]
            async with trio.open_nursery() as nursery:
                for wire in wires:
                    nursery.start_soon(wire.listen)
                for piece in conversation.pieces:
                    for wire in wires:
                        await wire.say(piece)
                    await wait_all_tasks_blocked()
                if conversation.half_close:
                    for wire in wires:
                        await wire.end()
                await wait_all_tasks_blocked(0.002)
                outcomes = [target.outcome(wire) for target, wire in zip(self._targets, wires, strict=True)]
                for wire in wires:
                    wire.close()
        # The services have ended the long polls of clients that have left; what stood in line behind them is next.
        await wait_all_tasks_blocked()
        return outcomes


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Generator[Stage, None, None]:
    stage = Stage(str(tmp_path_factory.mktemp("snapshots")))
    stage.open()
    yield stage
    stage.close()


def head(line: str, version: str, fields: list[str]) -> bytes:
    return "\r\n".join([f"{line} HTTP/{version}", *fields, "", ""]).encode("latin-1")


@st.composite
def plain_requests(draw: st.DrawFn) -> bytes:
    """A request a well-behaved client could send."""
    kind = draw(st.integers(0, 7))
    if kind < 2:
        return draw(batches() if kind else settlements())
    line = draw(st.sampled_from(SENDING) | st.sampled_from(TAKING))
    size = draw(st.one_of(st.integers(0, 12), st.integers(0, LARGEST + 2)))
    body = draw(st.binary(min_size=size, max_size=size)) if line in SENDING else b""
    fields = [f"Host: {draw(st.sampled_from(HOSTS))}", *draw(st.lists(st.sampled_from(HARMLESS), max_size=3))]
    if body or draw(st.booleans()):
        name = draw(st.sampled_from(["Content-Length", "content-length", "CONTENT-LENGTH"]))
        fields.append(f"{name}: {len(body)}")
    return head(line, "1.1", draw(st.permutations(fields))) + body


@st.composite
def batches(draw: st.DrawFn) -> bytes:
    """A batch, mostly a good one."""
    bodies = draw(st.lists(st.binary(max_size=LARGEST + 1), max_size=4))
    draft = {
        "body": b"x",
        **draw(st.dictionaries(st.sampled_from(["priority", "delay", "ttl", "odd"]), st.integers(0, 10))),
        **draw(st.sampled_from([{}, {}, {"headers": {"A": "1", "ce-id": ""}}, {"headers": {"a": "\n"}}])),
        **draw(st.sampled_from([{}, {}, {"group": "a"}, {"group": ""}, {"group": "a b"}])),
        **draw(st.sampled_from([{}, {}, {"unique": "a"}, {"unique": "a", "on": "replace"}, {"on": "drop"}])),
    }
    media_type, body = draw(
        st.sampled_from([
            ("application/msgpack", msgspec.msgpack.encode(bodies)),
            ("application/msgpack", msgspec.msgpack.encode([draft, *bodies])),
            ("application/msgpack", msgspec.msgpack.encode([1, "two"])),
            # Arrays and bytes have longer forms, which mean the same.
            ("application/msgpack", b"\xdc\x00\x02\xc4\x01a\xc5\x00\x01b"),
            ("application/json", msgspec.json.encode(bodies)),
            ("application/json", b'["####"]'),
            ("application/x-ndjson", b'{"a": 1}\n\n2\n'),
            ("application/x-ndjson", b"{"),
            ("text/plain", b"x"),
        ])
    )
    if draw(st.integers(0, 5)) == 0:
        body = body[: draw(st.integers(0, len(body)))]
    line = draw(st.sampled_from(BATCHES))
    fields = ["Host: localhost", f"Content-Type: {media_type}", f"Content-Length: {len(body)}"]
    return head(line, "1.1", [*fields, *draw(st.lists(st.sampled_from(HARMLESS), max_size=1))]) + body


@st.composite
def settlements(draw: st.DrawFn) -> bytes:
    """What is to become of several leases, mostly of some that may be."""
    entry = st.fixed_dictionaries(
        {"receipt": st.sampled_from([f"{TAG}-1-1", f"{TAG}-1-2", f"{TAG}-2-1", "x"])},
        optional={
            "action": st.sampled_from(["ack", "release", "extend", "odd"]),
            "delay": st.integers(-1, 3),
            "visibility": st.integers(0, 90),
        },
    )
    entries = draw(st.lists(entry, max_size=4))
    media_type, body = draw(
        st.sampled_from([
            ("application/json", msgspec.json.encode(entries)),
            ("application/msgpack", msgspec.msgpack.encode(entries)),
            ("text/plain", b"x"),
        ])
    )
    fields = ["Host: localhost", f"Content-Type: {media_type}", f"Content-Length: {len(body)}"]
    return head(draw(st.sampled_from(SETTLING)), "1.1", fields) + body


@st.composite
def odd_requests(draw: st.DrawFn) -> bytes:
    """A request that has something about it."""
    line = draw(st.one_of(st.sampled_from(LINES), st.sampled_from(ODD_LINES)))
    version = draw(st.sampled_from(["1.1", "1.1", "1.1", "1.0", "2.0", "1.2"]))
    body = draw(st.binary(max_size=LARGEST + 2))
    host = draw(st.one_of(*map(st.sampled_from, (HOSTS, FOREIGN_HOSTS, ODD_HOSTS))))
    fields = [f"Host: {host}", *draw(st.lists(st.sampled_from(HARMLESS + ODD), max_size=3))]
    if draw(st.booleans()):
        fields.append(f"Content-Length: {len(body)}")
    if draw(st.integers(0, 20)) == 0:
        fields.remove(f"Host: {host}")
    return head(line, version, draw(st.permutations(fields))) + body


@st.composite
def mutated_requests(draw: st.DrawFn) -> bytes:
    """A plain request with one byte too many, too few, or wrong."""
    data = bytearray(draw(plain_requests()))
    at = draw(st.integers(0, len(data) - 1))
    byte = draw(st.one_of(st.sampled_from(list(b"\r\n\0 :\t;,/?%A0\x80\xff")), st.integers(0, 255)))
    match draw(st.sampled_from(["insert", "delete", "replace", "cut"])):
        case "insert":
            data.insert(at, byte)
        case "delete":
            del data[at]
        case "replace":
            data[at] = byte
        case "cut":
            del data[at:]
    return bytes(data)


@st.composite
def conversations(draw: st.DrawFn) -> Conversation:
    requests = st.one_of(plain_requests(), plain_requests(), odd_requests(), mutated_requests())
    data = b"".join(draw(st.lists(requests, min_size=1, max_size=5)))
    cuts = sorted(draw(st.sets(st.integers(0, len(data)), max_size=4)))
    pieces = tuple(data[start:end] for start, end in itertools.pairwise([0, *cuts, len(data)]) if start < end)
    return Conversation(draw(st.integers(0, 3)), pieces, half_close=draw(st.booleans()))


ENQUEUE = b"POST /enqueue HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\n\r\na"
DEQUEUE = b"GET /dequeue HTTP/1.1\r\nHost: localhost\r\n\r\n"
HEALTH = b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"
RECEIVE = f"POST {DEFAULT}/receive HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()
TEXT, JSON, NDJSON = (
    f"Content-Type: {media}" for media in ["text/plain", "application/json", "application/x-ndjson"]
)
PLAIN = [
    ("POST /enqueue", ["Content-Length: 1"], "a"),
    ("POST /enqueue", [], ""),
    ("POST /dequeue", [], ""),
    ("GET /dequeue", ["Content-Length: 0"], ""),
    (f"POST {DEFAULT}/messages", ["Content-Length: 1"], "a"),
    (f"POST {DEFAULT}/messages?priority=5&delay=0&durability=memory&wait=0", [TEXT, "Content-Length: 1"], "a"),
    (f"POST {DEFAULT}/messages/batch", [JSON, "Content-Length: 8"], '["YQ=="]'),
    (f"POST {DEFAULT}/messages/batch", [NDJSON, "Content-Length: 11"], '{"a": 1}\n2\n'),
    (f"POST {DEFAULT}/receive", [], ""),
    (f"POST {DEFAULT}/receive/batch?ack=auto", [], ""),
    (f"POST {DEFAULT}/receive/batch?max=2&body=text", ["Accept: application/x-ndjson"], ""),
    (f"DELETE {DEFAULT}/receipts/{TAG}-1-1", [], ""),
    (f"POST {DEFAULT}/receipts/{TAG}-1-1/release?delay=1m", [], ""),
    (f"POST {DEFAULT}/receipts/{TAG}-1-1/extend", ["Content-Length: 0"], ""),
    (f"POST {DEFAULT}/settle", [JSON, "Content-Length: 42"], f'[{{"receipt":"{TAG}-1-1","action":"release"}}]'),
    (f"GET {DEFAULT}/messages?body=text", [], ""),
    (f"GET {DEFAULT}/messages/1", [], ""),
    (f"GET {DEFAULT}", [], ""),
    ("GET /queues", ["Content-Length: 0"], ""),
]
"""Requests that are peculiar in nothing, one for each operation of the hot path at least."""


def catalogue() -> Generator[tuple[str, bytes], None, None]:
    """Every peculiarity above, alone, in a request that is plain but for it."""
    for line, fields, body in PLAIN:
        tail = body.encode()
        # A receipt is good only if the conversation has a lease.
        leased = RECEIVE if "/receipts/" in line or "/settle" in line else b""
        # What the fields say is read by one and the same function for every line.
        thorough = "/queues" not in line or line.startswith("DELETE")
        for host in HOSTS + FOREIGN_HOSTS + ODD_HOSTS if thorough else ["a/b", "x"]:
            yield f"{line} of host {host}", leased + head(line, "1.1", [f"Host: {host}", *fields]) + tail
        for one in HARMLESS + ODD:
            yield f"{line} with {one[:40]}", leased + head(line, "1.1", ["Host: localhost", *fields, one]) + tail
            if thorough:
                yield (
                    f"{line} led by {one[:40]}",
                    leased + head(line, "1.1", [one, "Host: localhost", *fields]) + tail,
                )
        for version in ["1.0", "1.2", "2.0", "11"]:
            yield f"{line} in {version}", leased + head(line, version, ["Host: localhost", *fields]) + tail
        yield f"{line} without a host", leased + head(line, "1.1", fields) + tail
    for odd in ODD_LINES:
        yield odd, head(odd, "1.1", ["Host: localhost", "Content-Length: 1"]) + b"a"
        yield f"{odd} without a body", head(odd, "1.1", ["Host: localhost"])
    for size in [0, 1, LARGEST, LARGEST + 1]:
        for line in LINES:
            yield (
                f"{line} of {size} bytes",
                head(line, "1.1", ["Host: localhost", f"Content-Length: {size}"]) + bytes(size),
            )
    for length in ["00", "01", "1 ", " 1", "1;", "-0", "+0", "0.0", "1000000000", "9999999999"]:
        yield (
            f"length {length!r}",
            head("POST /enqueue", "1.1", ["Host: localhost", f"Content-Length:{length}"]) + b"a",
        )
    headed = head(f"POST {DEFAULT}/messages?priority=9", "1.1", ["Host: localhost", *HEADED])
    for line in TAKING:
        yield f"{line} of a message with headers", headed + head(line, "1.1", ["Host: localhost"])
        yield f"{line} of it in JSON", headed + head(line, "1.1", ["Host: localhost", "Accept: application/json"])
        yield (
            f"{line} of it in msgpack",
            headed + head(line, "1.1", ["Host: localhost", "Accept: application/msgpack"]),
        )
    grouped = head(f"POST {DEFAULT}/messages?group=a", "1.1", ["Host: localhost"])
    for line in TAKING:
        yield f"{line} of a group", 3 * grouped + 2 * head(line, "1.1", ["Host: localhost"])
        yield (
            f"{line} of a group in JSON",
            3 * grouped + 2 * head(line, "1.1", ["Host: localhost", "Accept: application/json"]),
        )
    for key in ("a", "a%20b", "a%26b"):
        for more in ([], ["TE: trailers"]):
            both = head(f"POST {DEFAULT}/messages?group={key}", "1.1", ["Host: localhost", *HEADED, *more])
            yield f"headers in group {key}{more}", both + head(TAKING[3], "1.1", ["Host: localhost"])
    for line in TAKING:
        keyed = [
            head(f"POST {DEFAULT}/messages?{query}", "1.1", ["Host: localhost", *more])
            for query in ("unique=a", "unique=a", "unique=a&on=replace&delay=1", "unique=a&on=replace&group=b")
            for more in ([], HEADED)
        ]
        yield f"{line} of messages with a key", b"".join(keyed) + 2 * head(line, "1.1", ["Host: localhost"])
    for number in (16, 17):
        headers = [f"Zapq-Header-{each}: x" for each in range(number)]
        yield f"{number} headers", head("POST /enqueue", "1.1", ["Host: localhost", *headers])
    yield "33 fields", head("POST /enqueue", "1.1", ["Host: localhost", *["A: b"] * 32])
    yield "101 fields", head("POST /enqueue", "1.1", ["Host: localhost", *["A: b"] * 100])


HEADED = ["Zapq-Header-Order: 17", "traceparent: 00-1-2-01", "baggage: a=1", "Baggage: b=2", "ce-id: x"]
"""The fields of a message with headers; those of one list are two."""
WAYS = ("whole", "cut off", "in pieces")


def peculiar_requests(*, gate: bool = True, everything: bool = False) -> list[tuple[str, str, bytes]]:
    """Return each peculiarity, and a way to send it: one way of each for the gate, a few of them without it."""
    choose = Random(0)
    # Not in turns: a peculiarity comes with many lines, and is to go with some of them each way.
    ways = [WAYS if everything else (choose.choice(WAYS),) for _ in catalogue()]
    several = zip(catalogue(), ways, strict=True)
    return [
        (name, way, data)
        for (name, data), ways in itertools.islice(several, 0, None, 1 if gate else 5)
        for way in ways
    ]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "request_" not in metafunc.fixturenames:
        return
    # One that is named is found among all.
    everything = is_as_long_as("nightly") or any("::" in each for each in metafunc.config.args)
    found = peculiar_requests(gate=everything or is_as_long_as("gate"), everything=everything)
    metafunc.parametrize(
        ("way", "request_"), [pytest.param(way, data, id=f"{name}, {way}") for name, way, data in found]
    )


def test_the_gate_tries_every_peculiarity_and_every_way() -> None:
    names, ways = ({each[part] for each in peculiar_requests()} for part in (0, 1))
    assert names == {name for name, _ in catalogue()}
    assert ways == set(WAYS)
    few, found, everything = (set(peculiar_requests(**how)) for how in ({"gate": False}, {}, {"everything": True}))
    assert few < found < everything
    assert len(everything) == len(WAYS) * len(found)


def test_a_peculiar_request_gets_the_same_answer_both_ways(stage: Stage, way: str, request_: bytes) -> None:
    middle = len(request_) // 2
    conversation = {
        "whole": Conversation(1, (ENQUEUE + request_ + DEQUEUE,), half_close=False),
        "cut off": Conversation(1, (ENQUEUE, request_[:-1]), half_close=True),
        "in pieces": Conversation(1, (request_[:middle], request_[middle:], DEQUEUE), half_close=False),
    }[way]
    cold, lobby, tls = stage.play(conversation)
    assert lobby == cold
    assert tls == cold or not is_the_same_over_tls(conversation)


def is_the_same_over_tls(conversation: Conversation) -> bool:
    """Whether TLS makes no difference: it has no half-close, and another scheme for a page to be from."""
    return not conversation.half_close and b"origin:" not in b"".join(conversation.pieces).lower()


@given(conversation=conversations())
@example(Conversation(0, (ENQUEUE * 4 + DEQUEUE * 4,), half_close=False))
@example(
    Conversation(2, (DEQUEUE * 70 + HEALTH + DEQUEUE * 70, HEALTH[:10], HEALTH[10:] + DEQUEUE), half_close=True)
)
@example(Conversation(0, (ENQUEUE[:-1],), half_close=True))
@example(Conversation(0, (ENQUEUE[:30],), half_close=True))
@settings(
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
def test_the_hot_path_cannot_be_told_from_the_long_way(stage: Stage, conversation: Conversation) -> None:
    cold, lobby, tls = stage.play(conversation)
    event(f"answers: {cold.answer.count(b'HTTP/1.1 ')}")
    assert lobby == cold
    assert tls == cold or not is_the_same_over_tls(conversation)
