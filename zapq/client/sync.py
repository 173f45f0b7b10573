"""The client for threads, with the same verbs: `with zapq.client.sync.open_client(url) as client`.

Each call blocks its thread until it is answered; there is no event loop behind it. Threads can share a client.
"""

from __future__ import annotations

import random as random_numbers
import ssl
import threading
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, contextmanager
from importlib import import_module
from typing import TYPE_CHECKING

from zapq.client.batching import Batcher
from zapq.client.holding import Holding
from zapq.client.network import Network, place_of
from zapq.client.opening import opened
from zapq.client.retry import Retry
from zapq.client.sync_verbs import Verbs
from zapq.client.threads import ThreadNetwork, run
from zapq.limits import CLIENT_ATTEMPTS, CLIENT_TIMEOUT, MAX_BATCH, PRODUCER_BATCH_BYTES, PRODUCER_LINGER

if TYPE_CHECKING:
    from zapq.client.sync_consumer import Consumer as Consumer
    from zapq.client.sync_consumer import HeldLease as HeldLease
    from zapq.client.sync_producer import Producer as Producer

__all__ = ["Client", "Consumer", "HeldLease", "Producer", "open_client"]

# Imported when they are first used (PEP 562): most programs need one of them.
_HOMES = {
    "Consumer": "zapq.client.sync_consumer",
    "HeldLease": "zapq.client.sync_consumer",
    "Producer": "zapq.client.sync_producer",
}


def __getattr__(name: str) -> object:
    if name in _HOMES:
        value = globals()[name] = getattr(import_module(_HOMES[name]), name)
        return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


class Client(Verbs):
    """The queues of a server elsewhere. Made by `open_client`, never by hand.

    Refusals are the exceptions of `zapq.errors`, with the server's `detail`, `members` and `retry_after`. A
    request is sent up to `attempts` times in all: always again after zapq's own 429 and 503 and a connection that
    could not be made, for then nothing was done; if repeating it is harmless also after `OutcomeUnknown`, after
    429, 502, 503 and 504 of a proxy, and after no answer. Between two attempts it pauses for the server's
    Retry-After and a random time on top, up to 0.1 s after the first failure, twice that after each further one,
    at most 10 s. The last failure is raised, also when Retry-After is longer than `timeout`. It is `Unreachable`
    if no attempt can have taken effect for want of a connection, and `NoAnswer` if one may have.

    A call that ends by KeyboardInterrupt may have taken effect, as one that is cancelled may in `zapq.client`.
    """

    def producer(
        self,
        queue: str,
        *,
        linger: float = PRODUCER_LINGER,
        max_messages: int = MAX_BATCH,
        max_bytes: int = PRODUCER_BATCH_BYTES,
    ) -> AbstractContextManager[Producer]:
        """Open a producer: `with client.producer("emails") as producer:`, then `producer.send(b"...")`.

        It sends what many threads give it in batches of up to `max_messages` (1 to 1000) and about `max_bytes`. A
        batch goes out `linger` seconds after its first message at the latest, or when the one before it is stored.
        At most two are held; beyond that `send` waits. The end of the block waits until all is stored. If the
        block raises, nothing more is sent, and `producer.unsent` has the messages.
        """
        from zapq.client.sync_producer import open_producer

        batcher = Batcher(linger, max_messages, max_bytes)
        return open_producer(self._talk, self._calls, queue, batcher)

    def consume(
        self, queue: str, *, concurrency: int = 8, prefetch: int = 0, visibility: float = 30.0, wait: float = 20.0
    ) -> AbstractContextManager[Consumer]:
        """Open a consumer: `with client.consume("emails") as leases:`, then `for lease in leases:`.

        It holds up to `concurrency` messages that are not settled, and `prefetch` more. One long poll of `wait`
        seconds fetches as many as there is room for. Of a group one message is given at a time, in order, the next
        when it is acknowledged; those messages are fetched one by one. Each is extended at a third of its
        `visibility` (seconds) until it is settled. Settlements of 5 ms go out together. `with lease:` acknowledges
        the message at the end of its block, and releases it if the block raises. Messages not settled when the
        consumer's own block ends are released, within 5 s. It waits for a queue that is not there, and for a
        server that is away, busy or draining; an error that does not pass, such as a wrong parameter, is raised
        where the next message is asked for, or at the end of the block.
        """
        from zapq.client import sync_consumer

        holding = Holding[sync_consumer.HeldLease](concurrency, prefetch, visibility)
        return sync_consumer.open_consumer(self._talk, self._calls, queue, holding, wait)

    def consume_with(
        self,
        queue: str,
        handler: Callable[[HeldLease], object],
        *,
        concurrency: int = 8,
        prefetch: int = 0,
        visibility: float = 30.0,
        wait: float = 20.0,
        stop: threading.Event | None = None,
    ) -> None:
        """Run `handler` for every message in `concurrency` threads, until KeyboardInterrupt or `stop` is set.

        `prefetch` more messages are held. When `handler` returns, the message is acknowledged; when it raises an
        `Exception`, the message is released and the error logged. Nothing can cancel a thread: one whose lease is
        lost, or whose consumer ends, finds `lease.cancelled` set. At the end handlers have 3 s to return or raise.
        What is not acknowledged then is released, within 5 s in all; threads that still run are daemons. Raises as
        `consume` does; then `stop` is set as well.
        """
        from zapq.client import sync_consumer

        holding = Holding[sync_consumer.HeldLease](concurrency, prefetch, visibility)
        sync_consumer.consume_with(self._talk, self._calls, queue, handler, holding, wait, concurrency, stop)


@contextmanager
def open_client(
    url: str,
    *,
    timeout: float = CLIENT_TIMEOUT,
    attempts: int = CLIENT_ATTEMPTS,
    token: str | None = None,
    verify: ssl.SSLContext | None = None,
    network: Network | None = None,
    random: Callable[[], float] = random_numbers.random,
) -> Generator[Client, None, None]:
    """Yield a client of the server at `url`, as `zapq.client.open_client` does, for threads.

    `network` and `random` are for tests. Connections that other threads use at the end of the block are closed
    when they are answered.
    """
    place = place_of(url, verify)
    over = ThreadNetwork() if network is None else network
    calls, talk = opened(over, place, token, timeout, Retry(attempts, random))
    try:
        yield Client(calls, talk)
    finally:
        run(talk.close())
