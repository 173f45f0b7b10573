"""The client for asyncio and Trio: the verbs, consumers, and how it is opened."""

from __future__ import annotations

import random as random_numbers
import ssl
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from importlib.util import find_spec
from typing import TYPE_CHECKING

from zapq.client.batching import Batcher
from zapq.client.network import Network, place_of
from zapq.client.opening import opened
from zapq.client.retry import Retry
from zapq.client.verbs import Verbs
from zapq.limits import CLIENT_ATTEMPTS, CLIENT_TIMEOUT, MAX_BATCH, PRODUCER_BATCH_BYTES, PRODUCER_LINGER

if TYPE_CHECKING:
    from zapq.client.consumer import Consumer, HeldLease, Stop
    from zapq.client.producer import Producer


class Client(Verbs):
    """The queues of a server elsewhere. Made by `open_client`, never by hand.

    Refusals are the exceptions of `zapq.errors`, with the server's `detail`, `members` and `retry_after`. A
    request is sent up to `attempts` times in all: always again after zapq's own 429 and 503 and a connection that
    could not be made, for then nothing was done; if repeating it is harmless also after `OutcomeUnknown`, after
    429, 502, 503 and 504 of a proxy, and after no answer. Between two attempts it pauses for the server's
    Retry-After and a random time on top, up to 0.1 s after the first failure, twice that after each further one,
    at most 10 s. The last failure is raised, also when Retry-After is longer than `timeout`. It is `Unreachable`
    if no attempt can have taken effect for want of a connection, and `NoAnswer` if one may have.

    Cancelling a call closes its connection. The request may have taken effect: a message may be stored, and one
    that was on its way here comes back when its visibility is over (`receive`) or is lost (`dequeue`).
    """

    def producer(
        self,
        queue: str,
        *,
        linger: float = PRODUCER_LINGER,
        max_messages: int = MAX_BATCH,
        max_bytes: int = PRODUCER_BATCH_BYTES,
    ) -> AbstractAsyncContextManager[Producer]:
        """Open a producer: `async with client.producer("emails") as producer:`, then `await producer.send(body)`.

        It sends what many tasks give it in batches of up to `max_messages` (1 to 1000) and about `max_bytes`. A
        batch goes out `linger` seconds after its first message at the latest, or when the one before it is stored.
        At most two are held; beyond that `send` waits. The end of the block waits until all is stored. If the
        block raises or is cancelled, nothing more is sent, and `producer.unsent` has the messages.
        """
        _check_extra()
        from zapq.client.producer import open_producer

        batcher = Batcher(linger, max_messages, max_bytes)
        return open_producer(self._talk, self._calls, queue, batcher)

    def consume(
        self, queue: str, *, concurrency: int = 8, prefetch: int = 0, visibility: float = 30.0, wait: float = 20.0
    ) -> AbstractAsyncContextManager[Consumer]:
        """Open a consumer: `async with client.consume("emails") as leases:`, then `async for lease in leases:`.

        It holds up to `concurrency` messages that are not settled, and `prefetch` more. One long poll of `wait`
        seconds fetches as many as there is room for. Of a group one message is given at a time, in order, the next
        when it is acknowledged; those messages are fetched one by one. Each is extended at a third of its
        `visibility` (seconds) until it is settled. Settlements of 5 ms go out together. `async with lease:`
        acknowledges the message at the end of its block, and releases it if the block raises or is cancelled.
        Messages not settled when the consumer's own block ends are released, within 5 s. It waits for a queue that
        is not there, and for a server that is away, busy or draining; an error that does not pass, such as a wrong
        parameter, cancels the block and is raised.
        """
        _check_extra()
        from zapq.client import consumer, polls

        fetch = polls.Polls(self._talk, self._calls)
        return consumer.open_consumer(
            self, fetch, queue, concurrency, prefetch, visibility, wait, self._calls.tracer
        )

    async def consume_with(
        self,
        queue: str,
        handler: Callable[[HeldLease], Awaitable[object]],
        *,
        concurrency: int = 8,
        prefetch: int = 0,
        visibility: float = 30.0,
        wait: float = 20.0,
        stop: Stop | None = None,
    ) -> None:
        """Run `handler` for every message, up to `concurrency` at once, until cancelled; `prefetch` more are held.

        When it returns, the message is acknowledged; when it raises an `Exception`, the message is released and
        the error logged. A handler whose lease is lost is cancelled. If cancelled, every handler is, and every
        message not acknowledged is released, within 5 s. Once `stop` is set, an `Event` of asyncio, Trio or
        anyio, no more messages are taken; those that no handler has are released, and it returns when the
        handlers have. Raises as `consume` does.
        """
        _check_extra()
        from zapq.client import consumer, polls

        fetch, tracer = polls.Polls(self._talk, self._calls), self._calls.tracer
        await consumer.consume_with(
            self, fetch, queue, handler, concurrency, prefetch, visibility, wait, tracer, stop
        )


@asynccontextmanager
async def open_client(
    url: str,
    *,
    timeout: float = CLIENT_TIMEOUT,
    attempts: int = CLIENT_ATTEMPTS,
    token: str | None = None,
    verify: ssl.SSLContext | None = None,
    network: Network | None = None,
    random: Callable[[], float] = random_numbers.random,
) -> AsyncGenerator[Client, None]:
    """Yield a client of the server at `url`: `http://host:port`, `https://host:port` or `unix:/path`.

    Works with asyncio and with Trio. Connects when it must, keeps connections for the next
    request, and closes them at the end of the block. Many tasks can share it. `timeout` is the seconds each step
    of a request may take (connecting, sending, waiting for the answer; a long poll's `wait` comes on top); a bound
    for all of it is a cancel scope, or `asyncio.timeout`, around the call. `attempts` is how often a request is
    sent at most, see `Client`. `token` is sent with each request, readable on the way without `https`. `verify`
    says which authorities to trust with `https`, by default those this machine trusts, and which certificate to
    show. `network` replaces the network and `random` the jitter, for tests. Raises ValueError for a `url` of
    another form, and `InvalidParameter` for a `token` that cannot be sent.
    """
    place = place_of(url, verify)
    over = _network() if network is None else network
    calls, talk = opened(over, place, token, timeout, Retry(attempts, random))
    try:
        yield Client(calls, talk)
    finally:
        await talk.close()  # noqa: ASYNC102 - it waits for nobody


def _check_extra() -> None:
    """Raise `ModuleNotFoundError` if that is not installed which producers and consumers of tasks need."""
    if find_spec("anyio") is None:
        raise ModuleNotFoundError(
            "Producers and consumers of tasks need the extra client: pip install 'zapq[client]'."
            " Those of zapq.client.sync do not.",
            name="anyio",
        )


def _network() -> Network:
    """Return the network of the library that runs this task."""
    trio = sys.modules.get("trio")
    if trio is not None and trio.lowlevel.in_trio_task():
        from zapq.client.on_trio import TrioNetwork

        return TrioNetwork()
    from zapq.client.on_asyncio import AsyncioNetwork

    return AsyncioNetwork()
