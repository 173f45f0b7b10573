"""Consuming with threads: leases that are fetched ahead, kept while handlers work on them, and settled.

Three threads do it for all leases of a consumer. One asks for as many messages as there is room for. One extends
the leases that need it, and finds those that are lost. One sends settlements, many at a time.
"""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager
from functools import partial
from types import TracebackType

from zapq.client.calls import Calls
from zapq.client.holding import Held, Holding, acknowledging, log, releasing
from zapq.client.lease import Lease
from zapq.client.retry import passes
from zapq.client.talk import Talk
from zapq.client.threads import Flag, Owner, ThreadNetwork, run
from zapq.core.settlement import Settlement
from zapq.errors import NoAnswer, QueueNotFound, ReceiptExpired, ZapqError
from zapq.limits import (
    HANDLER_SECONDS,
    MAX_BATCH,
    MAX_RETRY_AFTER,
    NO_QUEUE_PAUSE,
    POLL_END_SECONDS,
    SETTLE_LINGER,
    SETTLE_SECONDS,
)

Told = Callable[[ZapqError | None], None]
"""Is told what became of a settlement, with the consumer's lock held."""


class HeldLease(Held):
    """A leased message that is kept until it is settled: at the end of its block, or by `ack` or `release`.

    `with lease:` acknowledges the message when the block ends, and releases it if the block raises. The lease
    may be lost meanwhile, because the server was away for too long or the queue was deleted. Then `cancelled` is
    set, and `ReceiptExpired` raised at the end: another consumer has the message, or will have it.
    """

    __slots__ = ("_cancelled", "_consumer", "_over")

    def __init__(self, consumer: Consumer, lease: Lease) -> None:
        super().__init__(lease)
        self._consumer = consumer
        self._over = False
        self._cancelled: Flag | None = None

    @property
    def cancelled(self) -> threading.Event:
        """Set when the work on it is to end: the lease is lost, or the consumer ends.

        Nothing can stop a thread. So long work looks at `lease.cancelled.is_set()` now and then, and pauses by
        `lease.cancelled.wait(10)`.
        """
        with self._consumer._lock:
            if self._cancelled is None:
                self._cancelled = Flag()
                if self._over:
                    self._cancelled.set()
            return self._cancelled

    def ack(self) -> None:
        """Let the message go for good: it was dealt with.

        Raises `ReceiptExpired` if the lease is over, and the errors of `Client.settle`; then the message comes
        back. If it ends by KeyboardInterrupt, the message is still acknowledged.
        """
        self._settle(acknowledging(self))

    def release(self, *, delay: float = 0.0) -> None:
        """Give the message back, at its original place, at once or after `delay` seconds (up to a year).

        Raises `ReceiptExpired` if the lease is over, and the errors of `Client.settle`; then the message comes
        back when its visibility is over. If it ends by KeyboardInterrupt, the message is still released.
        """
        self._settle(releasing(self, delay))

    def __enter__(self) -> HeldLease:
        if self._lost:
            raise ReceiptExpired(queue=self.queue, message_id=self.id)
        tracer = self._consumer._calls.tracer
        if tracer is not None and self._processing is None:
            tracer.begin(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._processing is not None:
            self._processing.end(error)
        if error is not None:
            self._consumer._give_back(self)
        elif self._lost or not self._settling:
            self.ack()

    def _settle(self, settlement: Settlement) -> None:
        done = Flag()
        refusals: list[ZapqError] = []
        consumer = self._consumer
        consumer._owner.check()

        def told(error: ZapqError | None) -> None:
            if error is not None:
                refusals.append(error)
            consumer._forget(self, acknowledged=settlement.action == "ack" and error is None)
            done.set()

        with consumer._lock:
            if self._lost or consumer._ended:
                raise ReceiptExpired(queue=self.queue, message_id=self.id)
            consumer._settle(self, settlement, told)
        done.wait()
        if refusals:
            raise refusals[0].anew()

    def _cancel(self) -> None:
        self._over = True
        if self._cancelled is not None:
            self._cancelled.set()

    def _told(self, done: str, error: ZapqError | None) -> None:
        if error is not None:
            log.warning("message %d of %s was not %s: %s", self.id, self.queue, done, error.detail)
        self._consumer._forget(self, acknowledged=done == "acknowledged" and error is None)


class Consumer:
    """The messages of a queue, one by one, for one thread or several: `for lease in leases:`.

    Made by `Client.consume`, never by hand.
    """

    def __init__(
        self, talk: Talk, calls: Calls, queue: str, holding: Holding[HeldLease], wait: float, stop: threading.Event
    ) -> None:
        self._owner = Owner("consumer")
        self._calls = calls
        self._queue = queue
        self._wait = wait
        self._holding = holding
        # Of their own, so that they can be broken off.
        self._fetching, self._sending = (ThreadNetwork.like(talk.network) for _ in range(2))
        self._fetch_talk, self._settle_talk = talk.over(self._fetching), talk.over(self._sending)
        self._retry = talk.retry
        # It covers all that follows, and what is held.
        self._lock = threading.Lock()
        self._idle: deque[Flag] = deque()
        """Has one for each thread that waits for a message ..."""
        self._waking = False
        """... and whether one of them was let go on and does not run yet: it will see to the next."""
        self._room = threading.Condition(self._lock)
        self._settled = Flag()
        """Set when fewer messages are held."""
        self._gathered: list[tuple[Settlement, Told]] = []
        self._hurried = False
        self._gathering = threading.Condition(self._lock)
        """Notified when what is gathered is to be sent, or begins to be gathered."""
        self._look = threading.Condition(self._lock)
        self._stopping = False
        """Whether nothing more is fetched or handed out ..."""
        self._closed = False
        """... and, after that, threads that work on messages are to end ..."""
        self._ended = False
        """... and nothing more is settled."""
        self._failed: BaseException | None = None
        """What ended it before its time, and has not been raised."""
        self._until = math.inf
        """When all is to be settled; known once it is closed."""
        self._stop = stop
        """Set when it has failed."""
        # The one that fetches comes last: if we are interrupted before it runs, nothing is held.
        tasks = {"settles": self._send, "extends": self._keep, "fetches": self._fetch}
        self._threads = {
            name: threading.Thread(
                target=self._do, args=(task,), name=f"zapq consumer of {queue} {name}", daemon=True
            )
            for name, task in tasks.items()
        }

    def __iter__(self) -> Consumer:
        return self

    def __next__(self) -> HeldLease:
        self._owner.check()
        held = self._take()
        if held is not None:
            return held
        with self._lock:
            error, self._failed = self._failed, None
        raise StopIteration if error is None else error

    def _take(self) -> HeldLease | None:
        """Return the next message; None at the end."""
        turn: Flag | None = None
        try:
            while True:
                with self._lock:
                    if turn is not None:
                        self._waking = False
                    if self._stopping:
                        return None
                    if self._holding.ready:
                        held = self._holding.take()
                        self._wake()
                        self._make_room()
                        return held
                    turn = Flag()
                    self._idle.append(turn)
                turn.wait()
        except BaseException:
            # A KeyboardInterrupt: what it was to take is another one's.
            with self._lock:
                if turn is not None and turn in self._idle:
                    self._idle.remove(turn)
                else:
                    self._waking = False
                    self._wake()
            raise

    # All that follows is called with the lock held, unless it says otherwise.

    def _wake(self) -> None:
        """Let one thread go on if there is a message for it. One at a time: often the first one deals with all."""
        if self._holding.ready and self._idle and not self._waking:
            self._waking = True
            self._idle.popleft().set()

    def _make_room(self) -> None:
        if self._holding.room() > 0:
            self._room.notify()

    def _settle(self, held: HeldLease, settlement: Settlement, told: Told) -> None:
        """Have a lease settled; `told` hears what became of it, and calls `_forget`."""
        # First: a KeyboardInterrupt in between must not leave it as settled.
        self._gather(settlement, told)
        if self._holding.settle(held):
            self._hurry()

    def _gather(self, settlement: Settlement, told: Told) -> None:
        self._gathered.append((settlement, told))
        if len(self._gathered) in {1, MAX_BATCH}:
            self._gathering.notify()

    def _hurry(self) -> None:
        self._hurried = True
        self._gathering.notify()

    def _forget(self, held: HeldLease, *, acknowledged: bool) -> None:
        """Hold a lease no longer."""
        if held in self._holding.held:
            for each in self._holding.finish(held, acknowledged=acknowledged):
                self._release(each)
            self._wake()
            self._make_room()
            self._settled.set()

    def _lose(self, held: HeldLease) -> None:
        """Take note that a lease is over, and tell the thread that works on it."""
        if held._settling:
            return
        behind = self._holding.lose(held)
        if held._handed:
            log.warning("the lease of message %d of %s is lost", held.id, held.queue)
        held._cancel()
        for each in behind:
            self._release(each)
        self._make_room()
        self._settled.set()

    def _release(self, held: HeldLease) -> None:
        if not (held._settling or held._lost):
            self._settle(held, releasing(held), partial(held._told, "released"))

    def _hand_out_no_more(self) -> None:
        self._stopping = True
        self._room.notify()
        while self._idle:
            self._idle.popleft().set()

    def _give_back_ready(self) -> None:
        """Release the messages that no thread has."""
        for held in self._holding.take_back():
            self._release(held)
        self._hurry()

    def _close(self) -> None:
        self._closed = True
        self._hand_out_no_more()
        for held in self._holding.held:
            held._cancel()

    # From here on without the lock.

    def _finish(self, held: HeldLease) -> None:
        """Have a message acknowledged, unless it is settled or lost, without waiting for it."""
        with self._lock:
            if not (held._settling or held._lost):
                self._settle(held, acknowledging(held), partial(held._told, "acknowledged"))

    def _give_back(self, held: HeldLease) -> None:
        """Have a message released, unless it is settled or lost, without waiting for it."""
        with self._lock:
            self._release(held)

    def _fail(self, error: BaseException) -> None:
        """Have the consumer end, and raise the first error of all."""
        with self._lock:
            if self._failed is None and not self._closed:
                self._failed = error
            self._close()
        self._stop.set()

    def start(self) -> None:
        """Begin to fetch messages, until `stop`."""
        for thread in self._threads.values():
            thread.start()

    def stop_fetching(self) -> None:
        """Take no more messages, so that a program can end when the work it has begun is done.

        Loops over this consumer end. Messages that were not handed out yet are released at once; the others are
        kept until they are settled. Any thread may call it, except from a signal handler: it could wait for the
        very code that it interrupts.
        """
        with self._lock:
            self._hand_out_no_more()
            self._give_back_ready()
        self._fetching.let_end()

    def close(self) -> None:
        """Fetch nothing more and hand out nothing more; threads that work on messages are told to end."""
        with self._lock:
            self._close()
            self._until = min(self._until, time.monotonic() + SETTLE_SECONDS)
        self._fetching.let_end()

    def stop(self) -> None:
        """Release the messages that are not settled, and have its threads end, within 5 s of `close`."""
        if not self._owner.here:
            return
        try:
            self.close()
            # It may bring messages. The server answers at once that there are none; other sides may not.
            fetches = [self._threads["fetches"]]
            _join(fetches, min(self._until, time.monotonic() + POLL_END_SECONDS))
            self._fetching.break_off()
            _join(fetches, self._until)
            with self._lock:
                self._holding.take_back()
                for held in list(self._holding.held):
                    if not held._settling:
                        self._release(held)
                        held._lost = True
                self._hurry()
            self._wait_until_settled()
        finally:
            self._break_off()
        _join(self._threads.values(), self._until + SETTLE_SECONDS)
        for talk in (self._fetch_talk, self._settle_talk):
            run(talk.close())

    def _break_off(self) -> None:
        """Have its threads end at once."""
        with self._lock:
            self._close()
            self._ended = True
            for condition in (self._gathering, self._look):
                condition.notify_all()
        for network in (self._fetching, self._sending):
            network.break_off()

    def _wait_until_settled(self) -> None:
        while (left := self._until - time.monotonic()) > 0:
            with self._lock:
                if not self._holding.held:
                    return
                self._settled.clear()
            self._settled.wait(left)

    def _do(self, task: Callable[[], None]) -> None:
        try:
            task()
        except BaseException as error:
            self._fail(error)

    def _fetch(self) -> None:
        """Ask for as many messages as there is room for, through everything that passes."""
        failures = 0
        while room := self._wait_for_room():
            visibility = self._holding.visibility
            pause = 0.0
            try:
                call = self._calls.receive_many(self._queue, room, wait=self._wait, visibility=visibility)
                leases = run(self._fetch_talk.do(call))
            except QueueNotFound:
                # It was deleted while we waited.
                pause = NO_QUEUE_PAUSE
            except ZapqError as error:
                if self._fetching.broken:
                    return
                if not passes(error):
                    raise
                failures += 1
                pause = min(self._retry.pause(error, failures), MAX_RETRY_AFTER)
                log.warning("cannot receive from %s now: %s", self._queue, error.detail)
            else:
                failures = 0
                now = time.monotonic()
                with self._lock:
                    for lease in leases:
                        self._holding.add(HeldLease(self, lease), now)
                    if self._stopping:
                        self._give_back_ready()
                    self._wake()
            run(self._fetching.sleep(pause))

    def _wait_for_room(self) -> int:
        """Return how many messages to ask for; 0 if no more are wanted."""
        with self._lock:
            while (room := self._holding.room()) < 1 and not self._stopping:
                self._room.wait()
            return 0 if self._stopping else room

    def _keep(self) -> None:
        """Extend each lease at a third of its visibility until it is settled, and take note of those lost."""
        with self._lock:
            while not self._ended:
                now = time.monotonic()
                lost, extensions, next_look = self._holding.due(now)
                for held in lost:
                    self._lose(held)
                for held, extension in extensions:
                    self._gather(extension, partial(self._told_of_extension, held, now))
                self._look.wait(max(next_look - time.monotonic(), 0.0))

    def _told_of_extension(self, held: HeldLease, since: float, error: ZapqError | None) -> None:
        if self._holding.extended(held, since, time.monotonic(), error, self._retry):
            self._lose(held)
        self._look.notify()

    def _send(self) -> None:
        """Send what is gathered in 5 ms, or at once when it is hurried; each of a batch that fails is told so."""
        while True:
            with self._lock:
                while not self._gathered:
                    if self._ended:
                        return
                    self._gathering.wait()
                due = time.monotonic() + SETTLE_LINGER
                while not (self._hurried or self._ended or len(self._gathered) >= MAX_BATCH):
                    if (left := due - time.monotonic()) <= 0:
                        break
                    self._gathering.wait(left)
                batch, self._gathered = self._gathered[:MAX_BATCH], self._gathered[MAX_BATCH:]
                self._hurried = False
            results: list[ZapqError | None] = [_unknown() for _ in batch]
            try:
                if not self._ended:
                    call = self._calls.settle(self._queue, [settlement for settlement, _ in batch])
                    results = run(self._settle_talk.do(call))
            except ZapqError as error:
                results = [error for _ in batch]
            finally:
                with self._lock:
                    for (_, told), result in zip(batch, results, strict=True):
                        told(result)


def _join(threads: Iterable[threading.Thread], until: float) -> None:
    """Wait for those of some threads that were started, in that time."""
    for thread in threads:
        if thread.ident is not None:
            thread.join(max(until - time.monotonic(), 0.0))


def _unknown() -> ZapqError:
    return NoAnswer("The consumer ended before the server answered.")


@contextmanager
def open_consumer(
    talk: Talk,
    calls: Calls,
    queue: str,
    holding: Holding[HeldLease],
    wait: float,
    stop: threading.Event | None = None,
) -> Generator[Consumer, None, None]:
    """Yield a consumer, see `Client.consume`; when the block ends, its threads have ended and nothing is held."""
    consumer = Consumer(talk, calls, queue, holding, wait, Flag() if stop is None else stop)
    try:
        consumer.start()
        yield consumer
    finally:
        try:
            consumer.stop()
        except BaseException:
            # Another KeyboardInterrupt, before or after what `stop` itself expects.
            consumer._break_off()
            raise
    if consumer._failed is not None:
        raise consumer._failed


def consume_with(
    talk: Talk,
    calls: Calls,
    queue: str,
    handler: Callable[[HeldLease], object],
    holding: Holding[HeldLease],
    wait: float,
    concurrency: int,
    stop: threading.Event | None,
) -> None:
    """Run `handler` for every message in threads until `stop` is set, see `Client.consume_with`."""
    stop = Flag() if stop is None else stop
    handle = handler if calls.tracer is None else calls.tracer.around_in_thread(handler)

    def work() -> None:
        try:
            while (lease := leases._take()) is not None:
                try:
                    handle(lease)
                except Exception:
                    log.exception("the handler of message %d of %s failed", lease.id, lease.queue)
                    leases._give_back(lease)
                except BaseException:
                    leases._give_back(lease)
                    raise
                else:
                    leases._finish(lease)
        except BaseException as error:
            leases._fail(error)

    with open_consumer(talk, calls, queue, holding, wait, stop) as leases:
        workers = [
            threading.Thread(target=work, name=f"zapq handler of {queue}", daemon=True) for _ in range(concurrency)
        ]
        try:
            for worker in workers:
                worker.start()
            stop.wait()
        finally:
            leases.close()
            _join(workers, time.monotonic() + HANDLER_SECONDS)
