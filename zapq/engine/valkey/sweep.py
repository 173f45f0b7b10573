"""What is due in queues that are not asked about: each shard is looked at once a second, by one of all front ends.

No front end leads. Each of N takes a random Nth of the shards each second. Two that look at one shard do no harm,
and one that has died means late, never lost.
"""

from __future__ import annotations

import random
from math import ceil

import trio

from zapq.engine.valkey import procedures
from zapq.engine.valkey.call import outbox_waits
from zapq.engine.valkey.codec import Codec
from zapq.engine.valkey.connection import Connection, ConnectionLost, Server
from zapq.engine.valkey.fleet import Fleet, Station
from zapq.engine.valkey.keys import FRONT_ENDS, SHARDS, shard_keys
from zapq.engine.valkey.resp import ReplyError, pack
from zapq.engine.valkey.tasks import Tasks
from zapq.errors import ZapqError
from zapq.limits import SWEEP_SECONDS

_NO_TIME = 10**12
"""As long as a time in milliseconds is, from 2001 to 2286."""
_NONE_DUE = b":0\r\n"
_AT_ONCE = 1024
"""Shards looked at in one write: 2 ms of a server, which serves others after each 16 KiB of it. To wake up for a
write costs us as much as what is in it."""
_MOST_DUE = 4000
"""Queues in which what is due is done after one look, about; those of the others after the next one ..."""
_DONE_AT_ONCE = 200
"""... and so many of them at once: some 4 ms."""
_ROUNDS = 5
"""Times at once what is due in a queue is done, a thousand each."""
_UNUSABLE = (ConnectionLost, TypeError, ValueError, LookupError, AttributeError)
"""Ends of a connection, and answers that cannot be read."""
_GONE_SECONDS = 5
"""Seconds after which a front end that does not say that it is there does not count."""


def _tail(time: int) -> bytes:
    """Return a time as the last argument of a command."""
    return b"$13\r\n%d\r\n" % time


def _pause() -> float:
    """Return the seconds from one write to the next."""
    return 0.5 * SWEEP_SECONDS * _AT_ONCE / SHARDS


class Sweep:
    """The sweep of one front end."""

    def __init__(self, fleet: Fleet, codec: Codec, tasks: Tasks, front_end: str) -> None:
        self._fleet = fleet
        self._codec = codec
        self._tasks = tasks
        self._front_end = front_end
        # Once: to make so many commands each second would cost more than to send them. Their last argument is the
        # time, which is the same for all, and put between them.
        self._packed = [
            pack("ZCOUNT", shard_keys(shard)[0], 0, _NO_TIME).removesuffix(_tail(_NO_TIME))
            for shard in range(SHARDS)
        ]
        self._ahead: dict[Server, float] = {}
        """Milliseconds for which the clocks of servers are ahead of ours."""
        self.fronts = 1
        """How many front ends there are, as far as we know."""

    async def run(self) -> None:
        """Sweep until cancelled."""
        while True:
            begun = trio.current_time()
            for station in self._fleet.stations:
                await self._read_clock(station)
            await self._count_fronts()
            for station in self._fleet.stations:
                await self._sweep(station)
            await trio.sleep_until(begun + SWEEP_SECONDS * random.uniform(0.9, 1.1))

    async def _sweep(self, station: Station) -> None:
        shards = self._fleet.shards_of(station.master)
        if self.fronts > 1:
            shards = random.sample(shards, ceil(len(shards) / self.fronts))
        for start in range(0, len(shards), _AT_ONCE):
            some = shards[start : start + _AT_ONCE]
            connection = station.admin
            if connection is not None and station.master.server in self._ahead:
                await self._look(connection, station, some)
            else:
                await trio.sleep(_pause())

    async def _read_clock(self, station: Station) -> None:
        """Learn what time it is by the clock of a server."""
        if station.admin is None:
            return
        try:
            time = await station.admin.call("TIME")
            if isinstance(time, ReplyError):
                return  # as one that is busy with a script of another client
            now = int(time[0]) * 1000 + int(time[1]) / 1000
        except _UNUSABLE:
            station.drop_admin()
        else:
            self._ahead[station.master.server] = now - trio.current_time() * 1000

    def _clock(self, station: Station) -> int:
        """Return what time it is by the clock of a server, in milliseconds."""
        return int(trio.current_time() * 1000 + self._ahead[station.master.server])

    async def _look(self, connection: Connection, station: Station, shards: list[int]) -> None:
        """Look at shards, and have done what is due there."""
        now = _tail(self._clock(station))
        commands = now.join([self._packed[shard] for shard in shards]) + now
        try:
            # A call of a function costs three times as much, and in most shards nothing is due.
            replies = await connection.call_alike(commands, len(shards), _NONE_DUE, _pause())
            if replies is None:
                return
            due = [
                shard
                for shard, reply in zip(shards, replies, strict=True)
                if reply and not isinstance(reply, ReplyError)
            ]
            if not due:
                return
            most = max(_MOST_DUE // len(due), 1)
            calls = [procedures.look_at_shard(self._codec, shard, most).command(b"") for shard in due]
            claimed = await connection.call_all(calls)
            queues = [name.decode() for reply in claimed if not isinstance(reply, ReplyError) for name in reply[2]]
        except _UNUSABLE:
            station.drop_admin()
            return
        if queues:
            self._tasks.take_care(f"sweep of {station.master.server}", self._do(queues))

    def _do(self, queues: list[str]) -> procedures.Procedure:
        """Do what is due in queues; those with more to do are looked at again."""
        for first in range(0, len(queues), _DONE_AT_ONCE):
            yield from self._do_some(queues[first : first + _DONE_AT_ONCE])

    def _do_some(self, queues: list[str]) -> procedures.Procedure:
        for _ in range(_ROUNDS):
            if not queues:
                return
            outcomes = yield [procedures.do_what_is_due(self._codec, queue) for queue in queues]
            more: list[str] = []
            for queue, [said] in zip(queues, outcomes, strict=True):
                if isinstance(said, ZapqError):
                    continue
                if said[2] == 1:
                    more.append(queue)
                if outbox_waits(said):
                    self._tasks.take_care(queue, procedures.flush_outbox(self._codec, queue))
            queues = more

    async def _count_fronts(self) -> None:
        """Say that we are there, and count the front ends that have said so lately."""
        station = self._fleet.station_of_key(FRONT_ENDS)
        if station is None or station.admin is None or station.master.server not in self._ahead:
            return
        now = self._clock(station) // 1000
        try:
            replies = await station.admin.call_all([
                ("ZADD", FRONT_ENDS, now, self._front_end),
                ("ZREMRANGEBYSCORE", FRONT_ENDS, 0, now - _GONE_SECONDS),
                ("ZCARD", FRONT_ENDS),
            ])
        except _UNUSABLE:
            station.drop_admin()
            return
        if isinstance(replies[2], int):
            self.fronts = max(replies[2], 1)
