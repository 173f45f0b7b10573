"""Send requests to the server, and send them again: the one way from a call to its outcome, over any network."""

from __future__ import annotations

import os
import ssl
import time
from contextlib import suppress
from functools import partial
from math import inf
from typing import TypeVar

from zapq.client.answers import error_of
from zapq.client.calls import Call
from zapq.client.network import Connection, Network, Place
from zapq.client.retry import Retry, nothing_done
from zapq.client.wire import Answer, Reader, Strange
from zapq.errors import NoAnswer, Unreachable, ZapqError
from zapq.limits import IDEMPOTENCY_WINDOW, IDLE_CONNECTION_SECONDS, IDLE_CONNECTIONS

T = TypeVar("T")

# What the server's clock counts, this one must count as well: also the time for which this machine sleeps.
_now = partial(time.clock_gettime, time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic


class Pool:
    """Connections that wait for their next request, the last one used first. Threads may share it."""

    def __init__(self) -> None:
        self._idle: list[tuple[Connection, float]] = []
        self._closed = False
        self._process = os.getpid()

    def take(self) -> Connection | None:
        """Return a connection on which the other side has said nothing since; None if there is none."""
        if self._process != os.getpid():
            self._leave_to_parent()
        while True:
            try:
                connection, _ = self._idle.pop()
            except IndexError:
                return None
            if not connection.is_stale():
                return connection
            connection.close()

    def give(self, connection: Connection) -> None:
        """Keep a connection, and close those that are too many or too old."""
        now = time.monotonic()
        self._idle.append((connection, now))
        with suppress(IndexError):  # another thread may take one at any moment
            if len(self._idle) > IDLE_CONNECTIONS or self._idle[0][1] < now - IDLE_CONNECTION_SECONDS:
                oldest, _ = self._idle.pop(0)
                oldest.close()
        if self._closed:  # asked last: another thread may close the pool at any moment
            self._close_idle()

    def close(self) -> None:
        """Close all of them, and from now on those that are given."""
        self._closed = True
        self._close_idle()

    def _leave_to_parent(self) -> None:
        """Close what a fork has copied: on one connection, two processes would get each other's answers."""
        self._process = os.getpid()
        self._close_idle()

    def _close_idle(self) -> None:
        with suppress(IndexError):
            while True:
                self._idle.pop()[0].close()


class Talk:
    """Sends calls to one server until they are answered, or trying again is of no use; see `Client`."""

    def __init__(self, network: Network, place: Place, timeout: float, retry: Retry) -> None:
        self.retry = retry
        self.network = network
        self._place = place
        self._timeout = timeout
        self._pool = Pool()

    def over(self, network: Network) -> Talk:
        """Return one with the same server over a network and connections of its own."""
        return Talk(network, self._place, self._timeout, self.retry)

    async def do(self, call: Call[T]) -> T:
        """Return what the answer says, or raise the refusal that it is.

        If cancelled, the connection is closed, and the request may have taken effect.
        """
        failures = 0
        unknown: ZapqError | None = None
        forgotten = inf
        while True:
            began = _now()
            try:
                answer = await self._attempt(call, forgotten)
                if 200 <= answer.status < 300:
                    return call.read(answer)
                raise error_of(answer)
            except ZapqError as error:
                failures += 1
                pause = self.retry.pause(error, failures)
                if not nothing_done(error):
                    unknown = error
                    forgotten = min(forgotten, _forgotten(call, began))
                if (
                    not self.retry.allows(error, failures, repeatable=call.repeatable)
                    # Whoever called has said how long a step may take, and a pause is one.
                    or (error.retry_after or 0) > self._timeout + call.wait
                    or _now() + pause >= forgotten
                ):
                    if unknown is not None and isinstance(error, Unreachable):
                        # It says that nothing was done, which an earlier attempt may have.
                        raise NoAnswer(
                            "The request may or may not have taken effect, and could not be sent again. First:"
                            f" {unknown.detail} Last: {error.detail}"
                        ) from error
                    raise
            await self.network.sleep(pause)

    def close_idle(self) -> None:
        """Close the connections that wait for a request, and each other one when it is done with its own."""
        self._pool.close()

    async def close(self) -> None:
        """Do as `close_idle`, and wait until they are gone."""
        self.close_idle()
        await self.network.close()

    async def _attempt(self, call: Call[T], until: float) -> Answer:
        """Send a request, though not from `until` on, and return its answer."""
        connection, unanswered, began = self._pool.take(), None, _now()
        if connection is not None:
            try:
                return await self._exchange(connection, call)
            except NoAnswer as error:
                # The other side may close a connection at any moment, also as our request sets out: that is no
                # failure of the server's, and so no reason to pause.
                if not (call.repeatable and isinstance(error.__cause__, _Unanswered)):
                    raise
                unanswered = error.anew()
                until = min(until, _forgotten(call, began))
        try:
            connection = await self.network.connect(self._place, self._timeout)
        except OSError as error:
            raise unanswered or Unreachable(
                f"The server {self._place} could not be reached: {_reason(error)}."
            ) from error
        if _now() >= until:
            connection.close()
            raise unanswered or Unreachable(f"The server {self._place} could not be reached in time.")
        return await self._exchange(connection, call)

    async def _exchange(self, connection: Connection, call: Call[T]) -> Answer:
        """Send a request and return its answer; the connection is kept if it can be."""
        reader = Reader()
        answer: Answer | None = None
        complete = True
        try:
            try:
                await connection.send(call.data, self._timeout)
            except TimeoutError:
                raise
            except OSError:
                # A server that refuses a request need not read all of it; what it says may be there already.
                complete = False
            while answer is None:
                answer = reader.feed(await connection.receive(self._timeout + call.wait))
        except (OSError, Strange) as error:
            cut_off = not isinstance(error, TimeoutError) and not reader.begun
            cause = _Unanswered() if cut_off else error
            raise NoAnswer(
                f"No answer arrived, so the request may or may not have taken effect: {_reason(error)}."
            ) from cause
        finally:
            if answer is not None and answer.reusable and complete:
                self._pool.give(connection)
            else:
                connection.close()
        return answer


def _forgotten(call: Call[T], sent: float) -> float:
    """Return from when on a call that was sent then must not be sent again: it could be stored twice."""
    return sent + IDEMPOTENCY_WINDOW if call.keyed else inf


class _Unanswered(Exception):
    """The connection was closed before a byte of the answer came."""


def _reason(error: BaseException) -> str:
    """Return what the system says of it, in the same words for every library."""
    # The libraries for tasks try several addresses, and name what came of each as a cause.
    while isinstance(error.__cause__, OSError | BaseExceptionGroup):
        error = error.__cause__
        while isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not accepted: {error.verify_message.rstrip('.')}"
    if isinstance(error, ConnectionError) and error.errno:
        return os.strerror(error.errno)
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
