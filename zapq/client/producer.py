"""A producer for asyncio and Trio: it sends the messages of many tasks in batches."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from typing import Literal

import anyio

from zapq.client.batching import Batch, Batcher, message_of, store
from zapq.client.calls import Calls
from zapq.client.grouping import ungrouped
from zapq.client.talk import Talk
from zapq.core.message import OCTETS, Draft
from zapq.errors import ZapqError


class Sent:
    """A message that was given to a producer."""

    __slots__ = ("_batch", "_place", "_stored")

    def __init__(self, batch: Batch, place: int, stored: anyio.Event) -> None:
        self._batch = batch
        self._place = place
        self._stored = stored

    async def wait(self) -> int:
        """Wait until the message is stored, and return its id, or raise the error that refused it."""
        await self._stored.wait()
        return self._batch.result(self._place)


class Producer:
    """Sends messages to a queue in batches. Made by `Client.producer`, never by hand.

    A batch goes out when `linger` seconds have passed since its first message, or when it is full; while it is on
    its way the next one is filled. So messages of a task are stored in the order in which it sent them. Each batch
    has one Idempotency-Key: sent again, it is stored once.
    """

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

    @property
    def unsent(self) -> list[bytes | Draft]:
        """The messages not sent, and those on their way: when the block was left early, those that are lost.

        Those of a batch that was on its way may be stored. Those whose batch failed are not among them: `send` or
        `Sent.wait` raises for each. Messages without terms of their own are bytes.
        """
        return self._batcher.unsent()

    async def send(
        self,
        body: bytes,
        *,
        priority: int = 0,
        delay: float = 0.0,
        ttl: float | None = None,
        content_type: str = OCTETS,
        headers: Mapping[str, str] | None = None,
        group: str = "",
        unique: str = "",
        on: Literal["keep", "replace"] = "keep",
    ) -> int:
        """Send a message, wait until its batch is stored, and return the message's id.

        Waits while a batch is full and another one on its way. The terms are those of `Client.put`, and so are the
        errors; each is raised for the message that it is about. If the call is cut short, the message may be
        stored later.
        """
        message = message_of(body, priority, delay, ttl, content_type, headers, group, unique, on)
        while (sent := self._add(message, told=True)) is None:
            await self._room.wait()
        return await sent.wait()

    def send_nowait(
        self,
        body: bytes,
        *,
        priority: int = 0,
        delay: float = 0.0,
        ttl: float | None = None,
        content_type: str = OCTETS,
        headers: Mapping[str, str] | None = None,
        group: str = "",
        unique: str = "",
        on: Literal["keep", "replace"] = "keep",
    ) -> Sent:
        """Take a message to be sent, and return at once; `wait` of what is returned tells its id.

        Raises `BlockingIOError` if there is no room. An error is also raised by the next `flush`, or at the end of
        the block, in case nothing waits.
        """
        message = message_of(body, priority, delay, ttl, content_type, headers, group, unique, on)
        sent = self._add(message, told=False)
        if sent is None:
            raise BlockingIOError("a batch is full, and another one is on its way")
        return sent

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

    def _add(self, message: bytes | Draft, *, told: bool) -> Sent | None:
        if self._closed:
            raise RuntimeError("the producer is closed")
        added = self._batcher.add(message, anyio.current_time(), told=told)
        if added is None:
            self._wake.set()
            return None
        if self._stored is None:
            self._stored = anyio.Event()
            self._wake.set()
        elif self._batcher.full:
            self._wake.set()
        return Sent(*added, self._stored)


@asynccontextmanager
async def open_producer(talk: Talk, calls: Calls, queue: str, batcher: Batcher) -> AsyncGenerator[Producer, None]:
    """Yield a producer, see `Client.producer`."""
    producer = Producer(talk, calls, queue, batcher)
    with ungrouped():
        async with anyio.create_task_group() as group:
            group.start_soon(producer.run)  # noqa: ASYNC113 - what is sent before it runs waits for it
            try:
                yield producer
                await producer.flush()
            finally:
                producer.close()
                group.cancel_scope.cancel()
