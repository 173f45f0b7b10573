"""A producer for threads: it sends the messages of many threads in batches."""

from __future__ import annotations

import threading
import time
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from typing import Literal

from zapq.client.batching import Batch, Batcher, message_of, store
from zapq.client.calls import Calls
from zapq.client.talk import Talk
from zapq.client.threads import run
from zapq.core.message import OCTETS, Draft
from zapq.errors import ZapqError


class Sent:
    """A message that was given to a producer."""

    __slots__ = ("_batch", "_place", "_stored")

    def __init__(self, batch: Batch, place: int, stored: threading.Event) -> None:
        self._batch = batch
        self._place = place
        self._stored = stored

    def wait(self) -> int:
        """Wait until the message is stored, and return its id, or raise the error that refused it."""
        self._stored.wait()
        return self._batch.result(self._place)


class Producer:
    """Sends messages to a queue in batches. Made by `Client.producer`, never by hand.

    A batch goes out when `linger` seconds have passed since its first message, or when it is full; while it is on
    its way the next one is filled. So messages of a thread are stored in the order in which it sent them. Each
    batch has one Idempotency-Key: sent again, it is stored once.
    """

    def __init__(self, talk: Talk, calls: Calls, queue: str, batcher: Batcher) -> None:
        self._talk = talk
        self._calls = calls
        self._queue = queue
        self._batcher = batcher
        # It covers all that follows, and the batcher.
        self._lock = threading.Lock()
        self._wake = threading.Condition(self._lock)
        self._room = threading.Condition(self._lock)
        self._stored: threading.Event | None = None
        self._sending: threading.Event | None = None
        self._untold: ZapqError | None = None
        self._failed: BaseException | None = None
        """What ended the thread before its time."""
        self._closed = False

    @property
    def unsent(self) -> list[bytes | Draft]:
        """The messages not sent, and those on their way: when the block was left early, those that are lost.

        Those of a batch that was on its way may be stored. Those whose batch failed are not among them: `send` or
        `Sent.wait` raises for each. Messages without terms of their own are bytes.
        """
        with self._lock:
            return self._batcher.unsent()

    def send(
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
        with self._lock:
            while (sent := self._add(message, told=True)) is None:
                self._room.wait()
        return sent.wait()

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
        with self._lock:
            sent = self._add(message, told=False)
        if sent is None:
            raise BlockingIOError("a batch is full, and another one is on its way")
        return sent

    def flush(self) -> None:
        """Send what there is at once, and wait until it is stored."""
        with self._lock:
            last = self._stored or self._sending
            self._batcher.hurry()
            self._wake.notify()
        if last is not None:
            last.wait()
        with self._lock:
            error, self._untold = self._failed or self._untold, None
        if error is not None:
            raise error

    def run(self) -> None:
        """Send batches until closed. An error that is none of zapq's ends it, and is raised by `flush`."""
        try:
            self._send_batches()
        except BaseException as error:
            with self._lock:
                self._failed = error
            self.close()
            self.give_up()

    def _send_batches(self) -> None:
        while True:
            with self._lock:
                while (due := self._batcher.due()) is None or due > time.monotonic():
                    if self._closed:
                        return
                    self._wake.wait(None if due is None else max(due - time.monotonic(), 0.0))
                if self._closed:
                    return
                batch = self._batcher.take()
                self._sending, self._stored = self._stored, None
                self._room.notify_all()
            run(store(self._talk, self._calls, self._queue, batch))
            with self._lock:
                self._batcher.sending = None
                if not batch.told:
                    self._untold = self._untold or batch.error
                assert self._sending is not None, "a batch has a message"
                self._sending.set()
                self._sending = None

    def close(self) -> None:
        """Take no more messages; threads that wait are told that theirs were not sent."""
        with self._lock:
            self._closed = True
            self._wake.notify()
            self._room.notify_all()

    def give_up(self) -> None:
        """Say of what was not sent that it will not be."""
        with self._lock:
            self._batcher.give_up()
            for event in (self._sending, self._stored):
                if event is not None:
                    event.set()

    def _add(self, message: bytes | Draft, *, told: bool) -> Sent | None:
        if self._closed:
            raise RuntimeError("the producer is closed") from self._failed
        added = self._batcher.add(message, time.monotonic(), told=told)
        if added is None:
            self._wake.notify()
            return None
        if self._stored is None:
            self._stored = threading.Event()
            self._wake.notify()
        elif self._batcher.full:
            self._wake.notify()
        return Sent(*added, self._stored)


@contextmanager
def open_producer(talk: Talk, calls: Calls, queue: str, batcher: Batcher) -> Generator[Producer, None, None]:
    """Yield a producer, see `Client.producer`."""
    producer = Producer(talk, calls, queue, batcher)
    thread = threading.Thread(target=producer.run, name=f"zapq producer of {queue}", daemon=True)
    thread.start()
    try:
        yield producer
        producer.flush()
    finally:
        producer.close()
        thread.join()
        producer.give_up()
