"""The server: sockets, connections, the shutdown budget. Hypercorn lives here, and Quart only once it runs."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import trio

from zapq.errors import InvalidSetting
from zapq.service.service import QueueService
from zapq.settings import Settings


async def serve(
    settings: Settings | None = None,
    *,
    service: QueueService | None = None,
    shutdown_trigger: Callable[[], Awaitable[object]] = trio.sleep_forever,
    reload_trigger: Callable[[], Awaitable[object]] = trio.sleep_forever,
    task_status: trio.TaskStatus[list[str]] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve a queue over HTTP until `shutdown_trigger` returns, then shut down within `settings.grace` seconds.

    `settings` says where to listen, and has every limit; the defaults when omitted.

    `service` is a running queue to serve. The caller shares it, and must keep it open until `serve` returns. When
    it is omitted, `serve` opens one of its own and closes it at the end.

    `shutdown_trigger` is awaited once; its return begins the graceful shutdown. `reload_trigger` is awaited again
    and again; after each return the server reads `settings.token_file` and the certificates anew. Files that
    cannot be used change nothing, and are logged.

    `await nursery.start(zapq.serve, settings)` returns once the server accepts connections. It returns the bound
    addresses as `http://host:port`, `https://host:port` or `unix:/path`.

    Raises, before anything is served, `InvalidSetting` for a token file or certificates that cannot be used, and
    `CannotStart` for an address, a data directory or a `settings.load_on_start`. Raises, at the end,
    `SnapshotFailed` if a service of its own could not save `settings.snapshot_on_exit`.

    Cancelling stops at once: sockets are closed, requests in flight get no answer, and nothing is saved.
    """
    settings = settings or Settings()
    if settings.engine:
        if service is not None:
            raise InvalidSetting(
                "Give a service or settings.engine: the queues are in one of them.", setting="engine"
            )
        # As below; and only here, for it is a part that most servers do without.
        from zapq.server.with_engine import run_with_engine

        await run_with_engine(
            settings, shutdown_trigger=shutdown_trigger, reload_trigger=reload_trigger, task_status=task_status
        )
        return
    # Here and not above: importing Quart costs 0.7 s, which `zapq --version` and embedders need not pay.
    from zapq.server.run import run_server

    await run_server(
        settings,
        service=service,
        shutdown_trigger=shutdown_trigger,
        reload_trigger=reload_trigger,
        task_status=task_status,
    )
