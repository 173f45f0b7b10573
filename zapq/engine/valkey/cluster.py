"""Which server has which shard, asked of the servers themselves."""

from __future__ import annotations

from binascii import crc_hqx
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from zapq.engine.valkey.connection import Connection, ConnectionLost, Login, LoginRefused, Server, open_connection
from zapq.engine.valkey.keys import SHARDS, SLOTS, slot_of
from zapq.engine.valkey.resp import ReplyError

SLOT_OF_SHARD = [slot_of(shard) for shard in range(SHARDS)]
SHARDS_OF_SLOT: dict[int, list[int]] = {}
for _shard, _slot in enumerate(SLOT_OF_SHARD):
    SHARDS_OF_SLOT.setdefault(_slot, []).append(_shard)


@dataclass(frozen=True, slots=True)
class Topology:
    """The servers that have shards."""

    ranges: tuple[tuple[int, int, Server], ...]
    """First slot, last slot, and the master that has them."""
    replicas: int
    """Of the shard that has the fewest."""
    clustered: bool

    @property
    def servers(self) -> list[Server]:
        """The masters, each once."""
        return list(dict.fromkeys(server for _, _, server in self.ranges))

    def server_of(self, key: bytes) -> Server | None:
        """Return the server that has a key whose hash tag it begins with."""
        slot = crc_hqx(key[1 : key.index(b"}")], 0) % SLOTS
        return next((server for first, last, server in self.ranges if first <= slot <= last), None)

    def owners(self) -> list[Server | None]:
        """Return for each shard the server that has it."""
        slots: list[Server | None] = [None] * SLOTS
        for first, last, server in self.ranges:
            slots[first : last + 1] = [server] * (last + 1 - first)
        return [slots[slot] for slot in SLOT_OF_SHARD]


async def find_topology(servers: Sequence[Server], login: Login) -> Topology:
    """Ask the servers, one after the other until one knows; raises `ConnectionLost` if none does."""
    reasons: list[str] = []
    for server in servers:
        try:
            connection = await open_connection(server, login)
        except LoginRefused:
            raise
        except ConnectionLost as error:
            reasons.append(f"{server}: {error}")
            continue
        try:
            return await ask_topology(connection, tls=login.tls is not None)
        except ConnectionLost as error:
            reasons.append(f"{server}: {error}")
        finally:
            connection.close()
    raise ConnectionLost("; ".join(reasons))


async def ask_topology(connection: Connection, *, tls: bool) -> Topology:
    """Ask one server. Raises `ConnectionLost` if it does not know, as a replica that stands alone."""
    info = await replication(connection)
    if (await info_of(connection, "cluster")).get("cluster_enabled") == "1":
        shards = await connection.call("CLUSTER", "SHARDS")
        if isinstance(shards, ReplyError):
            raise ConnectionLost(f"CLUSTER SHARDS: {shards}")
        try:
            return read_shards(shards, connection.server, tls=tls)
        except (TypeError, ValueError, LookupError, AttributeError) as error:
            raise ConnectionLost("what CLUSTER SHARDS says cannot be read") from error
    if info.get("role") != "master":
        raise ConnectionLost("it is a replica")
    replicas = info.get("connected_slaves", "0")
    if not replicas.isdecimal():
        raise ConnectionLost("what INFO says cannot be read")
    return Topology(((0, SLOTS - 1, connection.server),), int(replicas), clustered=False)


def read_shards(shards: Sequence[Any], asked: Server, *, tls: bool = False) -> Topology:
    """Return what CLUSTER SHARDS says; `asked` is the server that says it."""
    ranges: list[tuple[int, int, Server]] = []
    replicas: list[int] = []
    for each in map(_named, shards):
        slots = each["slots"]
        nodes = [_named(node) for node in each["nodes"]]
        well = [node for node in nodes if node["health"] != b"fail"]
        masters = [node for node in well if node["role"] == b"master"]
        if not slots:
            continue
        replicas.append(sum(node["role"] == b"replica" for node in well))
        if not masters:
            continue
        server = _server(masters[0], asked, tls)
        ranges += [(first, last, server) for first, last in zip(slots[::2], slots[1::2], strict=True)]
    return Topology(tuple(ranges), min(replicas, default=0), clustered=True)


def _server(node: dict[str, Any], asked: Server, tls: bool) -> Server:
    endpoint = node.get("endpoint") or node.get("ip") or b""
    host = "" if endpoint in {b"", b"?"} else endpoint.decode()
    port = node.get("tls-port" if tls else "port") or asked.port
    return Server(host or asked.host, port)


def _named(pairs: Any) -> dict[str, Any]:
    """Return a map of the protocol's second version, which is a list, as a dictionary."""
    return {name.decode(): value for name, value in zip(pairs[::2], pairs[1::2], strict=True)}


async def info_of(connection: Connection, section: str) -> dict[str, str]:
    """Return a section of INFO. Raises `ConnectionLost`."""
    reply = await connection.call("INFO", section)
    if isinstance(reply, ReplyError):
        raise ConnectionLost(f"INFO: {reply}")
    if not isinstance(reply, bytes):
        raise ConnectionLost("what INFO says cannot be read")
    lines = reply.decode("utf-8", "replace").splitlines()
    return dict(line.partition(":")[::2] for line in lines if ":" in line)


async def replication(connection: Connection) -> dict[str, str]:
    """Return what a server says of its part in replication."""
    return await info_of(connection, "replication")
