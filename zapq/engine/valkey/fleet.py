"""The servers of the engine, and which of them is asked for what: connected, watched, and found again.

An operation goes to the server that has its shard now. If none does, it waits: for a failover, as long as it is
tried at all.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from functools import partial
from math import inf
from typing import Any

import trio

from zapq import logs
from zapq.engine.valkey.asked import Asked
from zapq.engine.valkey.batch import Gathering, Key
from zapq.engine.valkey.call import Call
from zapq.engine.valkey.cluster import SHARDS_OF_SLOT, Topology, find_topology
from zapq.engine.valkey.connection import Connection, ConnectionLost, Login, Server, open_connection
from zapq.engine.valkey.counts import Counts
from zapq.engine.valkey.hints import Hints
from zapq.engine.valkey.keys import SHARDS
from zapq.engine.valkey.master import Master
from zapq.engine.valkey.poller import Poller
from zapq.engine.valkey.prepare import prepare
from zapq.limits import ENGINE_PAUSE, MAX_ENGINE_PAUSE

_TICK_SECONDS = 0.1
_CHECK_SECONDS = 10.0
"""Seconds after which the servers' parts are asked for again, with no sign that they have changed."""


def _is_over(now: float, asked: Asked) -> bool:
    return now > asked.until


class Station:
    """One server with all that is kept for it."""

    def __init__(self, server: Server, fleet: Fleet, front_end: str) -> None:
        self.master = Master(server, fleet, fleet.poller, fleet.durability, on_lost=self.note_broken)
        self.hints = Hints(
            front_end,
            on_heard=fleet.on_heard,
            on_hint=fleet.on_hint,
            on_trouble=self.note_broken,
            poller=fleet.poller,
        )
        self.admin: Connection | None = None
        """For what is no batch, as the sweep."""
        self.problem = ""
        """Why it was not reached when it was last tried."""
        self.connected = False
        """Whether it was connected before."""
        self.broken = trio.Event()
        """Set when a connection has ended."""
        self.scope = trio.CancelScope()
        """Cancelled when it is no more of the engine's."""

    def note_broken(self) -> None:
        """Have the connections looked at: one has ended."""
        self.broken.set()

    def drop_admin(self) -> None:
        """Give up the connection for what is no batch."""
        admin, self.admin = self.admin, None
        if admin is not None:
            admin.close()
            self.note_broken()

    def close(self, reason: str) -> None:
        """Close all connections."""
        self.master.lose(reason)
        self.hints.lose()
        self.drop_admin()


class Fleet:
    """All servers of an engine. `run` must run as long as it is used."""

    def __init__(
        self,
        topology: Topology,
        seeds: Sequence[Server],
        login: Login,
        *,
        durability: str,
        front_end: str,
        calls: Callable[[Key, Sequence[Asked]], list[tuple[Call, Sequence[Asked]]]],
        note_reply: Callable[[Call, Any], object],
        on_heard: Callable[[int], object],
        on_hint: Callable[[bytes, str], object],
    ) -> None:
        self.poller = Poller()
        self.durability = durability
        self.counts = Counts()
        self.dequeues_empty = self.delivery_uncertain = 0
        self.calls = calls
        self._note_reply = note_reply
        self._seeds = list(seeds)
        self._login = login
        self._front_end = front_end
        self.on_heard = on_heard
        self.on_hint = on_hint
        self._topology = topology
        self._stations: dict[Server, Station] = {}
        self._retired: list[Station] = []
        """Servers that have no shards any more, and may have a batch under way."""
        self.owners: list[Master | None] = [None] * SHARDS
        """For each shard the server that has it."""
        self._homeless = Gathering()
        """Operations on shards that no server has."""
        self._trouble = trio.Event()
        self._connected = trio.Event()
        self._tasks: trio.Nursery | None = None
        self._ended = False

    @property
    def stations(self) -> list[Station]:
        """All servers."""
        return list(self._stations.values())

    @property
    def waiting_bytes(self) -> int:
        """What waits for its batch."""
        return sum(each.master.gathering.bytes for each in self._stations.values()) + self._homeless.bytes

    @property
    def reachable(self) -> float:
        """The part of the shards whose servers are connected."""
        return sum(owner is not None and owner.connection is not None for owner in self.owners) / SHARDS

    @property
    def servers(self) -> list[Server]:
        """The servers that have shards."""
        return self._topology.servers

    async def open(self, server: Server) -> Connection:
        """Open a connection to a server for the caller alone, which closes it. Raises `ConnectionLost`."""
        return await open_connection(server, self._login)

    async def open_to(self, key: bytes) -> Connection:
        """Open one to the server that has a key whose hash tag it begins with. Raises `ConnectionLost`."""
        server = self._topology.server_of(key)
        if server is None:
            raise ConnectionLost("a part of the slots has no server")
        return await self.open(server)

    def station_of_key(self, key: bytes) -> Station | None:
        """Return the server that has a key whose hash tag it begins with, as far as is known."""
        server = self._topology.server_of(key)
        return None if server is None else self._stations.get(server)

    def shards_of(self, master: Master) -> list[int]:
        """Return the shards that a server has."""
        return [shard for shard, owner in enumerate(self.owners) if owner is master]

    def hear(self, shard: int) -> bool:
        """Have hints about a shard sent to us, and return whether they are already."""
        owner = self.owners[shard]
        station = None if owner is None else self._stations.get(owner.server)
        return station is not None and station.hints.hear(shard)

    def add(self, key: Key, asked: Asked) -> None:
        """Let an operation be part of the next batch to the server that has its shard."""
        owner = self.owners[asked.shard]
        (self._homeless if owner is None else owner.gathering).add(key, asked)

    def flush(self) -> None:
        """Send what can be sent."""
        for station in self._stations.values():
            master = station.master
            if master.gathering:
                master.flush()

    def route(self, key: Key, asked: Sequence[Asked], *, first: bool = False) -> None:
        """Have operations done by the server that has their shard now; all of them are of one shard."""
        if not asked:
            return
        key = key[:2]  # where it was asked for once does not count any more
        owner = self.owners[asked[0].shard]
        gathering = self._homeless if owner is None else owner.gathering
        if self._ended:
            for each in asked:
                self.counts.give_up(each, "the front end is stopping")
        elif first:
            gathering.put_back(key, asked)
        else:
            for each in asked:
                gathering.add(key, each)

    def redirect(self, slot: int, server: Server, *, for_good: bool) -> Master:
        """Take note that a slot is at `server`, and return that."""
        station = self._station(server)
        if for_good:
            for shard in SHARDS_OF_SLOT.get(slot, ()):
                self.owners[shard] = station.master
            self.note_trouble()
        return station.master

    def note_trouble(self) -> None:
        """Have the servers' parts asked for again."""
        self._trouble.set()

    def note_reply(self, call: Call, reply: Any) -> None:
        """Take note of what a reply says beside the outcomes."""
        self._note_reply(call, reply)

    def note_empty(self) -> None:
        """Count a consumer that gets nothing."""
        self.dequeues_empty += 1

    def note_uncertain(self, number: int) -> None:
        """Count messages that were given for good, and may not have arrived."""
        self.delivery_uncertain += number

    async def wait_until_connected(self, seconds: float) -> None:
        """Wait until all shards can be asked about, or `seconds` have passed."""
        with trio.move_on_after(seconds):
            while self.reachable < 1:
                await self._connected.wait()
                self._connected = trio.Event()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Keep the servers connected until cancelled."""
        try:
            async with trio.open_nursery() as self._tasks:
                try:
                    self._use(self._topology)
                    self._tasks.start_soon(self._watch_topology)
                    self._tasks.start_soon(self._watch_time)
                    task_status.started()
                    await trio.sleep_forever()
                finally:
                    self.give_up()
        finally:
            # Not before: a task may have just got the connection it is to watch.
            self.poller.close()

    def give_up(self) -> None:
        """Try nothing any more: all that is asked is refused, or not known."""
        self._ended = True
        for station in self._stations.values():
            station.scope.cancel()
            station.close("the front end is stopping")
            for _, asked in station.master.gathering.take_all():
                for each in asked:
                    self.counts.give_up(each, "the front end is stopping")
        for _, asked in self._homeless.take_all():
            for each in asked:
                self.counts.give_up(each, "the front end is stopping")

    def _station(self, server: Server) -> Station:
        station = self._stations.get(server)
        if station is None:
            station = self._stations[server] = Station(server, self, self._front_end)
            assert self._tasks is not None
            self._tasks.start_soon(self._keep, station)
        return station

    def _use(self, topology: Topology) -> None:
        """Ask these servers from now on."""
        self._topology = topology
        self.owners = [None if server is None else self._station(server).master for server in topology.owners()]
        wanted = set(topology.servers)
        for server, station in list(self._stations.items()):
            if server not in wanted:
                del self._stations[server]
                self._retired.append(station)
        for station in [*self._stations.values(), *self._retired]:
            self._move(station.master.gathering)
        homeless, self._homeless = self._homeless, Gathering()
        self._move(homeless)
        self.flush()

    def _move(self, gathering: Gathering) -> None:
        """Have what gathers at a server that has not its shard any more done by the one that has."""
        for key, asked in gathering.take_all():
            by_shard: dict[int, list[Asked]] = {}
            for each in asked:
                by_shard.setdefault(each.shard, []).append(each)
            for some in by_shard.values():
                if len(key) == 3:
                    for each in some:
                        each.asking = False
                self.route(key, some)

    async def _watch_topology(self) -> None:
        said = ""
        while True:
            # While a part has no server, nothing else tells when it has one again.
            if None not in self.owners:
                with trio.move_on_after(_CHECK_SECONDS if self._topology.clustered else inf):
                    await self._trouble.wait()
            self._trouble = trio.Event()
            known = self._topology.servers if self._topology.clustered else []
            servers = dict.fromkeys([*known, *self._seeds])
            try:
                topology = await find_topology(list(servers), self._login)
            except ConnectionLost as error:
                if str(error) != said:
                    said = str(error)
                    logs.say(logging.WARNING, "engine not reached", reason=said)
            else:
                said = ""
                if topology.owners() != self._topology.owners() or None in self.owners:
                    logs.say(logging.INFO, "engine changed", masters=len(topology.servers))
                self._use(topology)
            # Time for a change to be seen by all servers.
            await trio.sleep(10 * ENGINE_PAUSE)

    async def _watch_time(self) -> None:
        while True:
            await trio.sleep(_TICK_SECONDS)
            now = trio.current_time()
            for station in [*self.stations, *self._retired]:
                station.master.look(now)
            for station in self._retired:
                if not station.master.busy:
                    station.scope.cancel()
            self._retired = [station for station in self._retired if station.master.busy]
            if self._homeless:
                for asked in self._homeless.drop(partial(_is_over, now)):
                    self.counts.give_up(asked, "no server has the queue at the moment")

    async def _keep(self, station: Station) -> None:
        """Keep one server connected until it is no more of the engine's."""
        pause, server = ENGINE_PAUSE, str(station.master.server)
        try:
            with station.scope:
                while True:
                    station.broken = trio.Event()
                    try:
                        await self._connect(station)
                    except ConnectionLost as error:
                        reason = str(error)
                        if station.problem != reason:
                            station.problem = station.master.problem = reason
                            logs.say(logging.WARNING, "engine not reached", server=server, reason=reason)
                        self.note_trouble()
                        await trio.sleep(pause)
                        pause = min(2 * pause, MAX_ENGINE_PAUSE)
                        continue
                    station.problem = ""
                    self.counts.reconnects += station.connected
                    station.connected = True
                    logs.say(logging.INFO, "engine connected", server=server)
                    self._connected.set()
                    begun = trio.current_time()
                    await station.broken.wait()
                    logs.say(logging.WARNING, "engine connection lost", server=server)
                    if trio.current_time() - begun > MAX_ENGINE_PAUSE:
                        pause = ENGINE_PAUSE
                    else:
                        # A server that takes connections and ends them is not stormed.
                        await trio.sleep(pause)
                        pause = min(2 * pause, MAX_ENGINE_PAUSE)
        finally:
            station.close("the server has left the engine")
            self._move(station.master.gathering)

    async def _connect(self, station: Station) -> None:
        """Open the connections to a server that are not open. Raises `ConnectionLost`."""
        master, hints = station.master, station.hints
        if master.connection is None:
            connection = await open_connection(master.server, self._login)
            try:
                epoch = await prepare(connection)
            except BaseException:
                connection.close()
                raise
            self.poller.watch(connection, master.receive)
            master.use(connection, epoch)
        if station.admin is None:
            station.admin = await open_connection(master.server, self._login)
        if hints.connection is None:
            connection = await open_connection(master.server, self._login)
            self.poller.watch(connection, hints.receive)
            hints.use(connection)
            for shard in self.shards_of(master):
                self.on_heard(shard)  # where consumers wait, the engine is asked again, and told
