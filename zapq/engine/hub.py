"""The front ends of one server, as the process that started them knows them: what they are told, and have counted.

Where the queues are in this process, each of them is a `Host`, which does what it asks as well.
"""

from __future__ import annotations

import selectors
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext, suppress
from functools import partial
from types import MappingProxyType
from typing import Any, ClassVar, NamedTuple

import trio

from zapq.engine import wire
from zapq.engine.channel import Channel, ChannelClosed
from zapq.engine.engine import Engine, Outcomes
from zapq.engine.wire import Ask, Figures, Order, Tell, added
from zapq.limits import COUNTS_SECONDS, TURN_SECONDS


class Counted(NamedTuple):
    """What a front end has counted, by the names of the metrics."""

    grown: Mapping[str, int] = MappingProxyType({})
    """What only grows."""
    now: Mapping[str, int] = MappingProxyType({})
    """What there is now."""


class Hub:
    """All front ends of one server, heard by one task: `run` must run as long as there are any.

    As in the lobby, a task for each would spend more on being woken than on what a front end asks.
    """

    def __init__(self, engine: Engine | None, ours: Callable[[], Figures]) -> None:
        """`engine` has the queues, if this process has them; `ours` tells what there is now in this process."""
        self.front_ends: set[FrontEnd] = set()
        self._engine = engine
        self._ours = ours
        self._gone: Figures = {}
        """What front ends had counted that are no more."""
        self._selector = selectors.DefaultSelector()
        self._due: list[FrontEnd] = []
        """Those that have something to tell."""
        self._in_turn = False
        self._token = trio.lowlevel.current_trio_token()

    async def run(self) -> None:
        """Hear all front ends until cancelled."""
        try:
            with nullcontext() if self._engine is None else self._engine.watched() as outcomes:
                if outcomes is not None:
                    self._selector.register(outcomes, selectors.EVENT_READ, outcomes)
                while True:
                    await trio.lowlevel.wait_readable(self._selector.fileno())
                    while ready := self._selector.select(0):
                        await self._hear([key.data for key, _ in ready])
        finally:
            self._selector.close()

    async def _hear(self, ready: list[FrontEnd | Outcomes]) -> None:
        """Have each dealt with once; other tasks have their turn after `TURN_SECONDS`, and at the end."""
        left = iter(ready)
        while True:
            until = time.perf_counter() + TURN_SECONDS
            self._in_turn = True
            with nullcontext() if self._engine is None else self._engine.turn():
                for each in left:
                    each.answer()
                    if time.perf_counter() > until:
                        break
                else:
                    ready = []
            self._in_turn = False
            self._send_due()
            await trio.lowlevel.checkpoint()
            if not ready:
                return

    def add(self, front_end: FrontEnd) -> None:
        """Hear this one from now on."""
        self.front_ends.add(front_end)
        self._selector.register(front_end, selectors.EVENT_READ, front_end)

    def stop_hearing(self, front_end: FrontEnd) -> None:
        """Do not hear this one any more: it has closed its end."""
        # It may have been done before, or the hub have ended.
        with suppress(KeyError, ValueError, RuntimeError):
            self._selector.unregister(front_end)

    def send_soon(self, front_end: FrontEnd) -> None:
        """Have `front_end` sent what there is to tell it, once this turn is over."""
        if not (self._due or self._in_turn):
            self._token.run_sync_soon(self._send_due)
        self._due.append(front_end)

    def _send_due(self) -> None:
        due, self._due = self._due, []
        for front_end in due:
            front_end.send_if_due()

    def gather(self, asker: FrontEnd, call: Callable[[Figures], object]) -> None:
        """Call `call` with the sum of what all front ends but `asker` have counted, once they have said it.

        One that does not answer within `COUNTS_SECONDS` counts with what it said before.
        """
        others = self.front_ends - {asker}
        waiting, called = len(others), False

        def note(number: int = 1) -> None:
            nonlocal waiting, called
            waiting -= number
            if waiting <= 0 and not called:
                called = True
                no_longer()
                call(self._sum(others))

        no_longer = asker.call_later(COUNTS_SECONDS, partial(note, len(others)))
        for each in others:
            each.ask_for_counts(note)
        note(0)

    def note_end(self, front_end: FrontEnd) -> None:
        """Keep what a front end has counted that is no more."""
        self.front_ends.discard(front_end)
        self.stop_hearing(front_end)
        self._gone = added(self._gone, front_end.counts.grown)

    def _sum(self, front_ends: set[FrontEnd]) -> Figures:
        total = added(self._gone, self._ours())
        for each in front_ends & self.front_ends:
            total = added(added(total, each.counts.grown), each.counts.now)
        return total


class FrontEnd:
    """One front end, at the other end of `channel`: gives it orders, and knows what it has counted."""

    def __init__(self, channel: Channel, hub: Hub, on_ready: Callable[[], object] = int) -> None:
        """`on_ready` is called when the front end accepts clients."""
        self.counts = Counted()
        """What the front end has counted when it last said so."""
        self._hub = hub
        self._on_ready = on_ready
        self._on_counts: list[Callable[[], object]] = []
        self._channel = channel
        self._stuck = trio.Event()
        self._closed = trio.Event()
        self._columns: list[tuple[int, int, Any, list[Any]]] = []
        """What gathers for the next frame."""
        self._due = False
        self._frames = 0
        self._tasks: trio.Nursery | None = None

    async def run(self) -> None:
        """Go on until the front end closes its end, or dies."""
        self._hub.add(self)
        try:
            async with trio.open_nursery() as nursery:
                self._tasks = nursery
                nursery.start_soon(self._write)
                await self._closed.wait()
                nursery.cancel_scope.cancel()
        except* ChannelClosed:
            pass
        finally:
            self._end()

    def fileno(self) -> int:
        """Return the descriptor that is readable when the front end has said something."""
        return self._channel.sock.fileno()

    def answer(self) -> None:
        """Take in what the front end has said by now."""
        try:
            for frame in self._channel.receive():
                self._take_in(frame)
        except ChannelClosed:
            self._hub.stop_hearing(self)
            self._closed.set()

    def greet(self, setup: object) -> None:
        """Send the front end what it has to know before all else."""
        self._channel.send(wire.encode(setup))

    def order(self, order: Order, value: float = 0.0) -> None:
        """Have the front end do something."""
        self._tell(Tell.ORDER, order, [value])

    def call_later(self, seconds: float, call: Callable[[], object]) -> Callable[[], object]:
        """Call `call` after so many seconds, unless the front end has ended or what is returned was called."""
        scope = trio.CancelScope()

        async def wait() -> None:
            with scope:
                await trio.sleep(seconds)
                call()

        if self._tasks is not None:
            self._tasks.start_soon(wait)
        return scope.cancel

    def ask_for_counts(self, call: Callable[[], object]) -> None:
        """Have `call` called once the front end has said what it has counted, or has ended."""
        self._on_counts.append(call)
        self._tell(Tell.COUNTS, None, [])

    def send_if_due(self) -> None:
        """Send what there is to tell, unless that has gone with something else."""
        if self._due and self._columns:
            self._send(is_reply=False)

    def _tell(self, kind: Tell, common: object, elements: list[Any]) -> None:
        """Have something told that is not what comes of an operation."""
        self._columns.append((kind, 0, common, elements))
        self._schedule()

    def _take_in(self, frame: bytes) -> None:
        _, columns = wire.Requests.decode(frame)
        for kind, queue, common, elements in columns:
            self._DO[kind](self, queue, common, elements, 0.0)

    def _take_counts(self, queue: None, common: Any, elements: list[Any], now: float) -> None:
        self.counts = Counted(*elements[0])
        self._tell_of_counts()

    def _note_ready(self, queue: None, common: Any, elements: list[Any], now: float) -> None:
        self._on_ready()

    def _gather(self, queue: None, common: Any, elements: list[Any], now: float) -> None:
        self._hub.gather(self, lambda figures: self._tell(Tell.FIGURES, None, [figures]))

    _DO: ClassVar[dict[int, Callable[..., None]]] = {
        Ask.COUNTS: _take_counts,
        Ask.READY: _note_ready,
        Ask.FIGURES: _gather,
    }

    def _tell_of_counts(self) -> None:
        calls, self._on_counts = self._on_counts, []
        for call in calls:
            call()

    def _schedule(self) -> None:
        if not self._due:
            self._due = True
            self._hub.send_soon(self)

    def _is_draining(self) -> bool:
        """Whether the queues of this process, if it has them, refuse new messages."""
        return False

    def _send(self, *, is_reply: bool) -> bool:
        """Send what there is to tell, and return False if the front end is no more."""
        columns, self._columns = self._columns, []
        self._due = False
        self._frames += 1
        try:
            self._channel.send(wire.encode((self._frames, is_reply, self._is_draining(), columns)))
        except ChannelClosed:
            return False  # the reader sees it as well
        if self._channel.stuck:
            self._stuck.set()
        return True

    async def _write(self) -> None:
        while True:
            await self._stuck.wait()
            await trio.lowlevel.wait_writable(self._channel.sock)
            self._channel.flush()
            if not self._channel.stuck:
                self._stuck = trio.Event()

    def _end(self) -> None:
        self._hub.note_end(self)
        self._tell_of_counts()
