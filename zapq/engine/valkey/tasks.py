"""What takes several calls, one after the other: in tasks, for they are rare."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Generator, Sequence
from math import inf
from typing import Any

import trio

from zapq import logs
from zapq.engine.valkey.asked import Asked
from zapq.engine.valkey.call import Call
from zapq.errors import Draining, ZapqError
from zapq.limits import LISTING_SECONDS
from zapq.service.pending import Ending, Later, Pending

Procedure = Generator[list[Call], list[list[Any]], Any]


class Tasks:
    """Does work in tasks. `send` has one call made."""

    def __init__(self, send: Callable[[Call], Asked]) -> None:
        self._send = send
        self._tasks: trio.Nursery | None = None
        self._running: set[str] = set()
        self._remembered: dict[type[Any], tuple[float, Any]] = {}
        self._looking = trio.Lock()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Run what is started until cancelled."""
        async with trio.open_nursery() as self._tasks:
            try:
                task_status.started()
                await trio.sleep_forever()
            finally:
                self._tasks = None

    def start(self, work: Callable[[], Awaitable[Any]]) -> Later[Any]:
        """Have `work` done in a task, and return what will come of it."""
        if self._tasks is None:
            raise Draining
        later: Later[Any] = Later(begun=True)
        self._tasks.start_soon(self._work, work, later)
        return later

    def take_care(self, queue: str, procedure: Procedure) -> None:
        """Have a procedure about a queue done in the background, unless one is being done."""
        if queue not in self._running and self._tasks is not None:
            self._running.add(queue)
            self._tasks.start_soon(self._take_care, queue, procedure)

    async def proceed(self, procedure: Procedure) -> Any:
        """Take the steps of a procedure, and return its outcome or raise what refuses it."""
        try:
            calls = next(procedure)
            while True:
                try:
                    outcomes = await self.send_all(calls)
                except ZapqError as error:
                    calls = procedure.throw(error)
                else:
                    calls = procedure.send(outcomes)
        except StopIteration as end:
            return end.value

    async def remembered(self, kind: type[Any], begin: Callable[[], Procedure]) -> Any:
        """Return the outcome of a procedure of this kind, which may be a second old."""
        async with self._looking:
            at, outcome = self._remembered.get(kind, (-inf, None))
            if trio.current_time() - at > LISTING_SECONDS:
                outcome = await self.proceed(begin())
                self._remembered[kind] = trio.current_time(), outcome
        return outcome

    def last(self, kind: type[Any]) -> tuple[float, Any] | None:
        """Return when a procedure of this kind had its last outcome, and that; None if there is none."""
        return self._remembered.get(kind)

    async def outcome(self, pending: Pending[Any]) -> Any:
        """Wait for an outcome and return it, or raise what refuses it. If cancelled, it is not known.

        No checkpoint if it is known already, for many come in one batch. If each were taken in a pass of Trio's
        loop, asking all shards would take longer on a busy front end than its client waits.
        """
        if pending.done:
            return pending.result()
        known = trio.Event()
        pending.when_done(known.set)
        try:
            await known.wait()
        except trio.Cancelled:
            pending.abandon()
            raise
        return pending.result()

    async def send_all(self, calls: Sequence[Call]) -> list[list[Any]]:
        """Make calls at once, and return what comes of each. Raises what refuses one, when all have ended."""
        sent = [self._send(call) for call in calls]
        outcomes: list[list[Any]] = []
        refusal: ZapqError | None = None
        for each in sent:
            try:
                outcomes.append(await self.outcome(each))
            except ZapqError as error:
                refusal = error
        if refusal is not None:
            raise refusal
        return outcomes

    async def _work(self, work: Callable[[], Awaitable[Any]], later: Later[Any]) -> None:
        with Ending(later):
            later.complete(await work())

    async def _take_care(self, queue: str, procedure: Procedure) -> None:
        try:
            await self.proceed(procedure)
        except ZapqError as error:
            # The sweep sees to it again.
            logs.say(logging.DEBUG, "dead letters not moved", queue=queue, reason=error.detail)
        finally:
            self._running.discard(queue)
