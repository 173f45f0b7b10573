"""`zapq forward`: delivers the messages of a queue to a URL, so that their consumer is a web server."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from math import inf

import trio

from zapq.client import Client, Consumer, HeldLease
from zapq.errors import ReceiptExpired, ZapqError
from zapq.limits import CLIENT_BACKOFF, CLIENT_MAX_BACKOFF
from zapq.programs.receiver import NotDelivered, Receiver, Target
from zapq.programs.webhook import Verdict, fields_of, verdict


class ReceiverGone(Exception):
    """The receiver said that it wants no more messages (410)."""


class Forwarder:
    """Takes messages of one queue and posts them, until it is stopped, or the receiver is gone."""

    def __init__(
        self,
        client: Client,
        queue: str,
        target: Target,
        *,
        secrets: Sequence[bytes] = (),
        concurrency: int = 8,
        timeout: float = 30.0,
        visibility: float = 30.0,
        say: Callable[[str], object] = lambda line: print(line, file=sys.stderr, flush=True),
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`say` is told of each delivery that failed; `clock` gives the Unix time."""
        self._client = client
        self._queue = queue
        self._secrets = secrets
        self._concurrency = concurrency
        self._visibility = visibility
        self._say = say
        self._clock = clock
        self._receiver = Receiver(target, concurrency, timeout)
        self._leases: Consumer | None = None
        self._stopping = False
        self._gone = False
        self._resting: set[trio.CancelScope] = set()
        """Of the tasks that wait until they may deliver the message they have."""
        self._rests_until = -inf
        self._failures = 0
        """In a row, of all deliveries."""

    def stop(self) -> None:
        """Take no more messages; deliveries under way go on to their end, and all other messages are released."""
        self._stopping = True
        if self._leases is not None:
            self._leases.stop_fetching()
        for scope in self._resting:
            scope.cancel()

    async def run(self) -> None:
        """Deliver messages until `stop`. Raises `ReceiverGone` for 410, and the errors of `Client.consume`.

        When it returns or is cancelled, every message that was not delivered is back in its queue.
        """
        consumer = self._client.consume(self._queue, concurrency=self._concurrency, visibility=self._visibility)
        try:
            async with consumer as self._leases, trio.open_nursery() as nursery:
                for _ in range(self._concurrency):
                    nursery.start_soon(self._work, self._leases)
        finally:
            self._receiver.close()
        if self._gone:
            raise ReceiverGone

    async def _work(self, leases: Consumer) -> None:
        async for lease in leases:
            try:
                async with lease:
                    await self._rest_over()
                    if self._stopping:
                        await lease.release()
                    else:
                        await self._deliver(lease)
            except ReceiptExpired:
                self._say(f"{lease.queue}: message {lease.id}: its lease was lost, so it is delivered again")
            except ZapqError as error:
                # It comes back when its visibility is over.
                self._say(f"{lease.queue}: message {lease.id}: {error.detail}")

    async def _rest_over(self) -> None:
        """Wait until the receiver wants messages, or a stop."""
        # Another delivery may have made the rest longer.
        while not self._stopping and trio.current_time() < self._rests_until:
            with trio.CancelScope() as scope:
                self._resting.add(scope)
                await trio.sleep_until(self._rests_until)
            self._resting.discard(scope)

    async def _deliver(self, lease: HeldLease) -> None:
        reason, found = await self._post(lease)
        if found.action == "ack":
            self._failures = 0
            await lease.ack()
            return
        self._say(f"{lease.queue}: message {lease.id}, attempt {lease.receive_count}: {reason}")
        await lease.release(delay=found.delay)

    async def _post(self, lease: HeldLease) -> tuple[str, Verdict]:
        """Post a message, and return what came of that; all rest if the receiver wants it, or is not well."""
        try:
            answer = await self._receiver.post(lease.body, fields_of(lease, self._secrets, self._clock()))
        except NotDelivered as error:
            self._rest(0.0)
            return str(error), Verdict("release")
        found = verdict(answer.status, answer.retry_after, self._clock())
        if found.action == "stop":
            self._gone = True
            self.stop()
        elif found.action == "release":
            self._rest(found.delay)
        return f"status {answer.status}", found

    def _rest(self, wanted: float) -> None:
        """Let no message be posted for `wanted` seconds, or for longer if many deliveries failed in a row."""
        self._failures += 1
        if self._failures > self._concurrency:
            # Beyond what is under way at once it is not about this message or that one.
            number = min(self._failures - self._concurrency, 30)
            wanted = max(wanted, min(CLIENT_BACKOFF * 2.0**number, CLIENT_MAX_BACKOFF))
        self._rests_until = max(self._rests_until, trio.current_time() + wanted)
