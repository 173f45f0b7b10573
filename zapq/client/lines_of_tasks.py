"""What a producer for asyncio and Trio does: the messages of many tasks stand in line, and go out in batches."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import anyio

from zapq.client.batching import Batch, Batcher, store
from zapq.client.calls import Calls
from zapq.client.grouping import ungrouped, uninterrupted
from zapq.client.talk import Talk
from zapq.core.message import Draft
from zapq.errors import ZapqError


class Place:
    """Where in the line a message stands."""

    __slots__ = ("_batch", "_number", "_stored")

    def __init__(self, batch: Batch, number: int, stored: anyio.Event) -> None:
        self._batch = batch
        self._number = number
        self._stored = stored

    async def stored(self) -> int:
        """Wait until the message is stored, and return its id, or raise the error that refused it."""
        await self._stored.wait()
        return self._batch.result(self._number)


class Line:
    """The messages of one producer, sent by one task."""

    def __init__(self, talk: Talk, calls: Calls, queue: str, batcher: Batcher) -> None:
        self._talk = talk
        self._calls = calls
        self._queue = queue
        self._batcher = batcher
        self._wake = anyio.Event()
        """Set when there may be a batch to send earlier than expected."""
        self._room = anyio.Event()
        """Set when the next batch is being filled."""
        self._stored: anyio.Event | None = None
        """Set when it is known what became of the batch that is being filled ..."""
        self._sending: anyio.Event | None = None
        """... and of the one on its way."""
        self._untold: ZapqError | None = None
        self._closed = False

    def unsent(self) -> list[bytes | Draft]:
        """Return the messages of which it is not known that they are stored."""
        return self._batcher.unsent()

    async def store(self, message: bytes | Draft) -> int:
        """Add a message, as soon as there is room, and return its id when it is stored."""
        while (place := self.add(message, told=True)) is None:
            await self._room.wait()
        return await place.stored()

    def add(self, message: bytes | Draft, *, told: bool = False) -> Place | None:
        """Add a message; return None if there is no room. `told` says that a task or thread waits for its
        outcome."""
        if self._closed:
            raise RuntimeError("the producer is closed")
        if self._calls.tracer is not None:
            message = self._calls.tracer.marked(message)
        # The time counts for the first message of a batch.
        now = anyio.current_time() if self._stored is None else 0.0
        added = self._batcher.add(message, now, told=told)
        if added is None:
            self._wake.set()
            return None
        if self._stored is None:
            self._stored = anyio.Event()
            self._wake.set()
        elif self._batcher.full:
            self._wake.set()
        return Place(*added, self._stored)

    async def flush(self) -> None:
        """Send what there is at once, and wait until it is stored."""
        # Batches are stored one after the other: the last one is the one to wait for.
        last = self._stored or self._sending
        if last is not None:
            self._batcher.hurry()
            self._wake.set()
            await last.wait()
        if self._untold is not None:
            error, self._untold = self._untold, None
            raise error
        if self._closed and (lost := self._batcher.lost()) is not None:
            raise lost.anew()

    async def run(self) -> None:
        """Send batches until cancelled."""
        while True:
            due = self._batcher.due()
            if due is None:
                await self._wake.wait()
                self._wake = anyio.Event()
                continue
            pause = due - anyio.current_time()
            if pause > 0 and not self._wake.is_set():
                with anyio.move_on_after(pause):
                    await self._wake.wait()
            if self._wake.is_set():
                self._wake = anyio.Event()
                continue
            batch = self._batcher.take()
            self._sending, self._stored = self._stored, None
            room, self._room = self._room, anyio.Event()
            room.set()
            await store(self._talk, self._calls, self._queue, batch)
            self._batcher.sending = None
            if not batch.told:
                self._untold = self._untold or batch.error
            assert self._sending is not None, "a batch has a message"
            self._sending.set()
            self._sending = None

    def close(self) -> None:
        """Take no more messages; tasks that wait are told that theirs were not sent, or may have been."""
        self._closed = True
        self._batcher.give_up()
        for event in (self._sending, self._stored, self._room):
            if event is not None:
                event.set()


@asynccontextmanager
async def open_line(talk: Talk, calls: Calls, queue: str, batcher: Batcher) -> AsyncGenerator[Line, None]:
    """Yield a line whose messages are sent; at the end of the block, what there is."""
    line = Line(talk, calls, queue, batcher)
    with ungrouped():
        async with anyio.create_task_group() as group:
            group.start_soon(uninterrupted(line.run))  # noqa: ASYNC113 - what is sent before it runs waits for it
            try:
                yield line
                await line.flush()
            finally:
                line.close()
                group.cancel_scope.cancel()
