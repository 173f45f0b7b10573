"""What a front end hears from the process that started it, and tells it, where that process has no queues.

Orders, and what all front ends have counted. It is little and seldom; the other side is `FrontEnd`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

import trio

from zapq.engine import wire
from zapq.engine.channel import Channel
from zapq.engine.wire import Ask, Figures, Tell
from zapq.service.pending import Later


class Parent:
    """The process that started this front end; `run` must run as long as it is used."""

    def __init__(
        self,
        channel: Channel,
        *,
        counts: Callable[[], tuple[Figures, Figures]],
        on_order: Callable[[int, float], object],
    ) -> None:
        """`counts` tells what we have counted that only grows, and what there is now.

        `on_order` is called when there is an `Order`.
        """
        self._channel = channel
        self._counts = counts
        self._on_order = on_order
        self._wanted: deque[Later[Figures]] = deque()

    async def run(self) -> None:
        """Hear what it says until cancelled. Raises `ChannelClosed` if it is no more."""
        while True:
            await trio.lowlevel.wait_readable(self._channel.sock)
            for frame in self._channel.receive():
                _, _, _, columns = wire.Outcomes.decode(frame)
                for kind, _, common, elements in columns:
                    self._take_in(kind, common, elements)
            while self._channel.stuck:
                await trio.lowlevel.wait_writable(self._channel.sock)
                self._channel.flush()

    def say_ready(self) -> None:
        """Tell it that clients are accepted now."""
        self._say(Ask.READY)

    def figures_of_others(self) -> Later[Figures]:
        """Ask what it and all its other front ends have counted, in sum, by the names of the metrics."""
        later: Later[Figures] = Later(begun=True)
        self._wanted.append(later)
        self._say(Ask.FIGURES)
        return later

    def _take_in(self, kind: int, common: Any, elements: list[Any]) -> None:
        if kind == Tell.ORDER:
            self._on_order(common, elements[0])
        elif kind == Tell.COUNTS:
            self._say(Ask.COUNTS, self._counts())
        elif kind == Tell.FIGURES:
            self._wanted.popleft().complete(elements[0])

    def _say(self, kind: Ask, *elements: object) -> None:
        # What the socket does not take now goes out when the other side speaks next: then it was far behind.
        self._channel.send(wire.encode((0, [(kind, None, None, elements)])))
