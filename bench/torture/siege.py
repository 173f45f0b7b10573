"""Clients that are too many, or mean no good, from a process of their own: slow heads, slow bodies, non-readers.

Reads one line of JSON from standard input, who they are (`Siege`), and goes on until standard input ends. Whoever
is cut off comes back at once. Then it prints how often that was.
"""

from __future__ import annotations

import random
import resource
import socket
import sys
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from functools import partial
from io import FileIO

import msgspec
import trio

from bench.torture.beside import beside
from bench.torture.probe import PATIENCE, exchange
from zapq.limits import KIB, MAX_BATCH_BYTES

BIG = "big"
"""The queue that answers worth not reading come from."""
_HEADS = (
    b"POST /enqueue HTTP/1.1\r\nHost: localhost\r\nX-A: ",
    b"GET /health HTTP/1.1\r\nHost: localhost\r\nX-A: ",
    b"DELETE /queues/big/receipts/1-1-",
    b"GE",
)
_END = b" HTTP/1.1\r\nHost: localhost\r\n\r\n"
_NEVER_READ = (
    b"GET /queues/big/messages?limit=1000" + _END,
    b"POST /queues/big/receive/batch?visibility=1" + _END,
    b"POST /queues/big/receive/batch?visibility=1" + _END[:-2] + b"Accept: application/msgpack\r\n\r\n",
    (b"POST /queues/big/receive?visibility=1" + _END) * 50,
    (b"GET /metrics" + _END) * 200,
    (b"GET /dequeue" + _END) * 2000,
)


class Siege(msgspec.Struct):
    """How many of each kind there are, and where."""

    port: int
    seed: int
    heads: int = 0
    bodies: int = 0
    non_readers: int = 0
    comers: int = 0
    """These mean no harm: there are only many of them."""


class Besieged(msgspec.Struct):
    """What became of them."""

    visits: dict[str, int] = {}
    """Connections made, by kind."""
    turned_away: dict[str, int] = {}
    """Of those, not accepted, closed at once, or closed before an answer that a comer waited for."""
    answered: int = 0
    """Requests of comers."""
    hung: int = 0
    """Comers that were left hanging."""


Here = Callable[[], None]
"""Says, if it is new, that a client has come as far as it wants to."""


async def slow_head(stream: trio.SocketStream, rng: random.Random, here: Here) -> None:
    """Send a head byte by byte, without an end."""
    await stream.send_all(rng.choice(_HEADS))
    here()
    await _drip(stream, rng)


async def slow_body(stream: trio.SocketStream, rng: random.Random, here: Here) -> None:
    """Send a head, a part of the body, and the rest byte by byte."""
    kind = rng.choice(("message", "chunked", "settle", "batch"))
    if kind == "chunked":
        head = (
            b"POST /queues/slow/messages HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n7fff\r\n"
        )
        begin = rng.randbytes(rng.randrange(32 * KIB))
    else:
        target = {"message": "/enqueue", "settle": "/queues/big/settle", "batch": "/queues/slow/messages/batch"}[
            kind
        ]
        length = MAX_BATCH_BYTES if kind == "batch" else 128 * KIB
        head = f"POST {target} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n".encode()
        head += b"Content-Length: %d\r\n\r\n" % length
        # A few of the large ones come almost whole: what they hold is memory.
        begin = bytes(length - 64 if rng.random() < 0.1 else rng.randrange(32 * KIB))
    await stream.send_all(head + begin)
    here()
    await _drip(stream, rng)


async def non_reader(stream: trio.SocketStream, rng: random.Random, here: Here) -> None:
    """Ask for much and read nothing of it."""
    await stream.send_all(rng.choice(_NEVER_READ))
    here()
    # To read would be the way to see the server's end.
    await trio.sleep(rng.uniform(3, 10))


async def comer(stream: trio.SocketStream, rng: random.Random, here: Here, besieged: Besieged) -> None:
    """Ask now and then, and stay."""
    while True:
        with trio.move_on_after(PATIENCE) as patience:
            await exchange(stream, b"GET /dequeue HTTP/1.1\r\nHost: localhost\r\n\r\n")
        if patience.cancelled_caught:
            besieged.hung += 1
            return
        besieged.answered += 1
        here()
        await trio.sleep(rng.uniform(0.2, 0.6))


async def _drip(stream: trio.SocketStream, rng: random.Random) -> None:
    async def watch() -> None:
        while await stream.receive_some():
            pass
        nursery.cancel_scope.cancel()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(watch)
        while True:
            await trio.sleep(rng.uniform(0.5, 1.5))
            await stream.send_all(b"a")


async def _come_again(
    name: str,
    visit: Callable[[trio.SocketStream, random.Random, Here], Awaitable[None]],
    siege: Siege,
    number: int,
    besieged: Besieged,
    missing: set[tuple[str, int]],
) -> None:
    rng = random.Random(f"{siege.seed} {name} {number}")
    came = False

    def here() -> None:
        nonlocal came
        came = True
        if (name, number) in missing:
            missing.remove((name, number))
            if not missing:
                print(flush=True)

    while True:
        besieged.visits[name] = besieged.visits.get(name, 0) + 1
        begun, came = trio.current_time(), False
        try:
            with trio.socket.socket() as sock:
                # Little room, so that what is not read stays with the server.
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 * KIB)
                await sock.connect(("127.0.0.1", siege.port))
                await visit(trio.SocketStream(sock), rng, here)
        except* (OSError, trio.BrokenResourceError):
            pass
        turned_away = not came or trio.current_time() - begun < 0.1
        here()
        if turned_away:
            besieged.turned_away[name] = besieged.turned_away.get(name, 0) + 1
            await trio.sleep(rng.uniform(0.5, 1.5))


async def besiege(siege: Siege, stdin: FileIO) -> Besieged:
    """Go on until `stdin` ends; print an empty line when all are there."""
    besieged = Besieged()
    kinds = (
        ("slow heads", slow_head, siege.heads),
        ("slow bodies", slow_body, siege.bodies),
        ("non-readers", non_reader, siege.non_readers),
        ("comers", partial(comer, besieged=besieged), siege.comers),
    )
    missing = {(name, number) for name, _, clients in kinds for number in range(clients)}
    async with trio.open_nursery() as nursery:
        for name, visit, clients in kinds:
            for number in range(clients):
                nursery.start_soon(_come_again, name, visit, siege, number, besieged, missing)
        await trio.to_thread.run_sync(stdin.read, 1)
        nursery.cancel_scope.cancel()
    return besieged


def besieging(siege: Siege, besieged: Besieged) -> AbstractAsyncContextManager[None]:
    """Besiege the server for the length of the block, which begins when all are there; then tell how it went."""

    def note(said: Besieged) -> None:
        for name in said.__struct_fields__:
            setattr(besieged, name, getattr(said, name))

    return beside("bench.torture.siege", siege, Besieged, note)


def main() -> None:
    """Do as standard input says."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    with open(sys.stdin.fileno(), "rb", buffering=0) as stdin:
        siege = msgspec.json.decode(stdin.readline(), type=Siege)
        print(msgspec.json.encode(trio.run(besiege, siege, stdin)).decode())


if __name__ == "__main__":
    main()
