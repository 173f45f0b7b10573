"""What a server of the engine says unasked: that messages are there for consumers that wait here.

One more connection to each server, for a connection that listens takes no other commands.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from zapq.engine.valkey.connection import Connection, ConnectionLost
from zapq.engine.valkey.keys import wake_channel
from zapq.engine.valkey.poller import Poller
from zapq.engine.valkey.resp import ReplyError, pack


class Hints:
    """The channels of one server that this front end listens to: one for each shard in which consumers wait."""

    def __init__(
        self,
        front_end: str,
        *,
        on_heard: Callable[[int], object],
        on_hint: Callable[[bytes, str], object],
        on_trouble: Callable[[], object],
        poller: Poller,
    ) -> None:
        """`on_heard` is called with a shard when its hints begin or cease to arrive, `on_hint` with each hint."""
        self.connection: Connection | None = None
        self._front_end = front_end
        self._on_heard = on_heard
        self._on_hint = on_hint
        self._on_trouble = on_trouble
        self._poller = poller
        self._shards: dict[bytes, int] = {}
        self._asked: set[int] = set()
        self._heard: set[int] = set()

    def use(self, connection: Connection) -> None:
        """Listen on this connection from now on."""
        self.connection = connection
        self._asked.clear()
        self._heard.clear()

    def hear(self, shard: int) -> bool:
        """Listen for hints about a shard, and return whether they are sent to us already."""
        if shard in self._heard:
            return True
        connection = self.connection
        if connection is not None and shard not in self._asked:
            self._asked.add(shard)
            channel = wake_channel(shard, self._front_end)
            self._shards[channel] = shard
            try:
                connection.send(pack("SSUBSCRIBE", channel))
            except ConnectionLost:
                self.lose()
            else:
                if connection.stuck:
                    self._poller.note_stuck(connection)
        return False

    def receive(self) -> None:
        """Take in what has arrived."""
        connection = self.connection
        if connection is None:
            return
        try:
            if connection.stuck:
                connection.flush()
                self._poller.note_stuck(connection)
            replies = connection.receive()
        except ConnectionLost:
            self.lose()
            return
        for reply in replies:
            self._take_in(reply)

    def lose(self) -> None:
        """Give the connection up."""
        connection, self.connection = self.connection, None
        if connection is not None:
            self._poller.discard(connection)
            self._asked.clear()
            self._heard.clear()
            self._on_trouble()

    def _take_in(self, reply: Any) -> None:
        if isinstance(reply, ReplyError):
            # The shard has moved: the connection is made anew, to where it is.
            self.lose()
            return
        if not isinstance(reply, list) or len(reply) != 3:
            return
        kind, channel, content = reply
        shard = self._shards.get(channel)
        if shard is None:
            return
        if kind == b"ssubscribe":
            self._heard.add(shard)
            self._on_heard(shard)
        elif kind == b"sunsubscribe":
            self._heard.discard(shard)
            self._asked.discard(shard)
            # It has moved. The engine is asked again for its consumers, and told again that they wait.
            self._on_heard(shard)
        elif kind == b"smessage":
            self._on_hint(content[:1], content[1:].decode("utf-8", "replace"))
