"""What a producer for threads does: the messages of many threads stand in line, and go out in batches."""

from __future__ import annotations

import threading
import time
from collections.abc import Generator
from contextlib import contextmanager

from zapq.client.batching import Batch, Batcher, store
from zapq.client.calls import Calls
from zapq.client.talk import Talk
from zapq.client.threads import Flag, Owner, ThreadNetwork, run
from zapq.core.message import Draft
from zapq.errors import ZapqError


class Place:
    """Where in the line a message stands."""

    __slots__ = ("_batch", "_number", "_owner", "_stored")

    def __init__(self, batch: Batch, number: int, stored: Flag, owner: Owner) -> None:
        self._batch = batch
        self._number = number
        self._stored = stored
        self._owner = owner

    def stored(self) -> int:
        """Wait until the message is stored, and return its id, or raise the error that refused it."""
        self._owner.check()
        self._stored.wait()
        return self._batch.result(self._number)


class Line:
    """The messages of one producer, sent by one thread."""

    def __init__(self, talk: Talk, calls: Calls, queue: str, batcher: Batcher) -> None:
        self._owner = Owner("producer")
        # Of its own, so that it can be broken off.
        self._network = ThreadNetwork.like(talk.network)
        self._talk = talk.over(self._network)
        self._calls = calls
        self._queue = queue
        self._batcher = batcher
        # It covers all that follows, and the batcher.
        self._lock = threading.Lock()
        self._wake = threading.Condition(self._lock)
        self._room = Flag()
        """Set when the next batch is being filled."""
        self._stored: Flag | None = None
        """Set when it is known what became of the batch that is being filled ..."""
        self._sending: Flag | None = None
        """... and of the one on its way."""
        self._untold: ZapqError | None = None
        self._failed: BaseException | None = None
        """What ended the thread before its time."""
        self._closed = False
        self._thread = threading.Thread(target=self._run, name=f"zapq producer of {queue}", daemon=True)

    def unsent(self) -> list[bytes | Draft]:
        """Return the messages of which it is not known that they are stored."""
        self._owner.check()
        with self._lock:
            return self._batcher.unsent()

    def store(self, message: bytes | Draft) -> int:
        """Add a message, as soon as there is room, and return its id when it is stored."""
        self._owner.check()
        while True:
            with self._lock:
                place, room = self._add(message, told=True), self._room
            if place is not None:
                return place.stored()
            room.wait()

    def add(self, message: bytes | Draft) -> Place | None:
        """Add a message; return None if there is no room."""
        self._owner.check()
        with self._lock:
            return self._add(message, told=False)

    def _add(self, message: bytes | Draft, *, told: bool) -> Place | None:
        if self._closed:
            raise RuntimeError("the producer is closed") from self._failed
        if self._calls.tracer is not None:
            message = self._calls.tracer.marked(message)
        added = self._batcher.add(message, time.monotonic(), told=told)
        if added is None:
            self._wake.notify()
            return None
        if self._stored is None:
            self._stored = Flag()
            self._wake.notify()
        elif self._batcher.full:
            self._wake.notify()
        return Place(*added, self._stored, self._owner)

    def flush(self) -> None:
        """Send what there is at once, and wait until it is stored."""
        self._owner.check()
        with self._lock:
            last = self._stored or self._sending
            self._batcher.hurry()
            self._wake.notify()
        if last is not None:
            last.wait()
        with self._lock:
            error, self._untold = self._failed or self._untold, None
            lost = self._batcher.lost() if self._closed else None
        if error is not None:
            raise error
        if lost is not None:
            raise lost.anew()

    def start(self) -> None:
        """Begin to send batches, until `close`."""
        self._thread.start()

    def close(self) -> None:
        """Take no more messages; threads that wait are told that theirs were not sent, or may have been."""
        if not self._owner.here:
            return
        with self._lock:
            self._closed = True
            self._batcher.give_up()
            for event in (self._sending, self._stored):
                if event is not None:
                    event.set()
            self._wake.notify()
            self._room.set()
        self._network.break_off()
        if self._thread is not threading.current_thread() and self._thread.ident is not None:
            self._thread.join()
        run(self._talk.close())

    def _run(self) -> None:
        """Send batches until closed. An error that is none of zapq's ends it, and is raised by `flush`."""
        try:
            self._send_batches()
        except BaseException as error:
            with self._lock:
                self._failed = error
            self.close()

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
                room, self._room = self._room, Flag()
                room.set()
            run(store(self._talk, self._calls, self._queue, batch))
            with self._lock:
                if self._network.broken and batch.error is not None:
                    # All were told that it is unknown, and its messages stay among those not sent.
                    return
                self._batcher.sending = None
                if not batch.told:
                    self._untold = self._untold or batch.error
                # There is none if the only one that waited was interrupted before that.
                if self._sending is not None:
                    self._sending.set()
                    self._sending = None


@contextmanager
def open_line(talk: Talk, calls: Calls, queue: str, batcher: Batcher) -> Generator[Line, None, None]:
    """Yield a line whose messages are sent; at the end of the block, what there is."""
    line = Line(talk, calls, queue, batcher)
    try:
        line.start()
        yield line
        line.flush()
    finally:
        line.close()
