"""Settings to queues for an embedding program, wherever they are."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from zapq.engine.local import LocalEngine
from zapq.engine.queues import Queues
from zapq.service.open import open_service
from zapq.settings import Settings


@asynccontextmanager
async def open_queues(settings: Settings | None = None) -> AsyncGenerator[Queues, None]:
    """Have queues for the length of the block: `async with zapq.open_queues(settings) as queues:`.

    With `settings.engine` they are in Valkey or Redis, where other programs and servers have them in common; else
    they are in this process, as `open_service` has them. The verbs are the same. Raises `CannotStart`, and
    `InvalidSetting` for an engine's password or certificates that cannot be read. When the block ends, all that
    waits is answered, and messages that reached no consumer go back to their places.
    """
    settings = settings or Settings()
    if not settings.engine:
        async with open_service(settings) as service:
            yield Queues(LocalEngine(service))
        return
    # Here, for most programs do without.
    from zapq.engine.valkey.open import declare, open_engine

    async with open_engine(settings) as engine:
        await declare(engine, settings)
        try:
            yield Queues(engine)
        finally:
            engine.drain()
