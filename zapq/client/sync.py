"""The client for threads, with the same verbs: `with zapq.client.sync.open_client(url) as client`.

Each call blocks its thread until it is answered; there is no event loop behind it. Threads can share a client.
"""

from __future__ import annotations

import random as random_numbers
import ssl
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING

from zapq.client.batching import Batcher
from zapq.client.calls import Calls
from zapq.client.network import Network, place_of
from zapq.client.retry import Retry
from zapq.client.sync_verbs import Verbs
from zapq.client.talk import Talk
from zapq.client.threads import ThreadNetwork, run
from zapq.client.wire import Writer
from zapq.limits import CLIENT_ATTEMPTS, CLIENT_TIMEOUT, MAX_BATCH, PRODUCER_BATCH_BYTES, PRODUCER_LINGER

if TYPE_CHECKING:
    from zapq.client.sync_producer import Producer

__all__ = ["Client", "open_client"]


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
        block raises, nothing more is sent except for a batch that is on its way, and `producer.unsent` has the
        messages.
        """
        from zapq.client import sync_producer

        batcher = Batcher(linger, max_messages, max_bytes)
        return sync_producer.open_producer(self._talk, self._calls, queue, batcher)


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
    writer = Writer(place.host, place.prefix, token)
    talk = Talk(ThreadNetwork() if network is None else network, place, timeout, Retry(attempts, random))
    try:
        yield Client(Calls(writer), talk)
    finally:
        run(talk.close())
