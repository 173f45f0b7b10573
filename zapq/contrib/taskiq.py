"""A broker for taskiq: tasks are messages of a queue of a zapq server, and leased while they run."""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import AsyncGenerator
from functools import partial
from typing import Any

from taskiq import AckableMessage, AsyncBroker, BrokerMessage

from zapq.client import Client, Consumer, HeldLease, open_client
from zapq.errors import ZapqError

__all__ = ["ZapqBroker"]

log = logging.getLogger("zapq.taskiq")
_RETRIES = "_retries"
"""The label by which taskiq's middlewares count."""


class ZapqBroker(AsyncBroker):
    """Sends tasks to the queue `queue` of the server at `url`, and gives them to taskiq's workers.

    A task's labels `delay`, `ttl` (seconds), `priority` (0 to 9), `group` and `unique` are those of a message; see
    `Client.put`. A worker process holds up to `concurrency` tasks, by default as many as
    `taskiq worker --max-async-tasks` runs, and `prefetch` more. Each is extended until taskiq acknowledges it. If
    the process dies, its tasks are given to another one when their `visibility` is over (seconds). `token` and
    `verify` are those of `open_client`. Works between `startup` and `shutdown`, which taskiq's workers call.
    """

    def __init__(
        self,
        url: str = "http://127.0.0.1:8080",
        queue: str = "taskiq",
        *,
        concurrency: int = 100,
        prefetch: int = 0,
        visibility: float = 30.0,
        token: str | None = None,
        verify: ssl.SSLContext | None = None,
    ) -> None:
        super().__init__()
        self.queue = queue
        self._url = url
        self._concurrency = concurrency
        self._prefetch = prefetch
        self._visibility = visibility
        self._token = token
        self._verify = verify
        self._client: Client | None = None
        self._leases: Consumer | None = None
        self._life: asyncio.Task[None] | None = None
        self._ending = asyncio.Event()

    async def startup(self) -> None:
        """Open the client, and in a worker the consumer; then do what taskiq does."""
        self._ending = asyncio.Event()
        ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        # A task of its own: taskiq may end us in another one than that which began.
        self._life = asyncio.create_task(self._live(ready))
        self._life.add_done_callback(lambda life: _pass_on(life, ready))
        await ready
        await super().startup()

    async def shutdown(self) -> None:
        """Do what taskiq does; then release the messages that are not acknowledged, and close the client."""
        await super().shutdown()
        self._ending.set()
        if self._life is not None:
            life, self._life = self._life, None
            await life

    async def kick(self, message: BrokerMessage) -> None:
        """Send a task. Raises `RuntimeError` before `startup`, and the errors of `Client.put`."""
        if self._client is None:
            raise RuntimeError("Call `await broker.startup()` before sending tasks.")
        labels = message.labels
        ttl = labels.get("ttl")
        unique = labels.get("unique")
        if _RETRIES in labels:
            # The attempt that failed still holds the key: nothing would be stored.
            unique = None
        await self._client.put(
            self.queue,
            message.message,
            priority=int(labels.get("priority", 0)),
            delay=float(labels.get("delay", 0)),
            ttl=None if ttl is None else float(ttl),
            group=_text(labels.get("group")),
            unique=_text(unique),
        )

    async def listen(self) -> AsyncGenerator[AckableMessage, None]:
        """Yield tasks, until the broker is shut down. When taskiq listens no more, no more are fetched."""
        leases = self._leases
        if leases is None:
            raise RuntimeError("Only workers listen: `taskiq worker` starts them.")
        try:
            async for lease in leases:
                yield AckableMessage(data=lease.body, ack=partial(_ack, lease))
        finally:
            leases.stop_fetching()

    async def _live(self, ready: asyncio.Future[None]) -> None:
        async with open_client(self._url, token=self._token, verify=self._verify) as client:
            self._client = client
            try:
                if self.is_worker_process:
                    await self._consume(client, ready)
                else:
                    ready.set_result(None)
                    await self._ending.wait()
            finally:
                self._client = self._leases = None

    async def _consume(self, client: Client, ready: asyncio.Future[None]) -> None:
        async with client.consume(
            self.queue, concurrency=self._concurrency, prefetch=self._prefetch, visibility=self._visibility
        ) as leases:
            self._leases = leases
            ready.set_result(None)
            await self._ending.wait()


async def _ack(lease: HeldLease) -> None:
    try:
        await lease.ack()
    except ZapqError as error:
        log.warning("message %d of %s may be given to another worker: %s", lease.id, lease.queue, error.detail)


def _pass_on(life: asyncio.Task[None], ready: asyncio.Future[None]) -> None:
    """Have `startup` raise what keeps the client from being opened."""
    if not ready.done():
        error = asyncio.CancelledError() if life.cancelled() else life.exception()
        ready.set_exception(error or RuntimeError("the broker has ended"))


def _text(label: Any) -> str | None:
    return None if label is None else str(label)
