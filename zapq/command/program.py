"""Commands that go on until they are stopped: over the client, on Trio, with an end to what they began."""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from importlib.util import find_spec
from typing import TYPE_CHECKING
from urllib.parse import SplitResult

from zapq.command.exit import EXIT_FAILED, EXIT_OK, EXIT_SIGNAL, fail
from zapq.command.http import Failed
from zapq.limits import SIGNAL_ECHO_SECONDS, TOKEN_VARIABLE

if TYPE_CHECKING:
    from zapq.client import Client

OnStop = Callable[[Callable[[], object]], object]
"""Is told, once, how a program is stopped in an orderly way."""


def check_extra(command: str, extra: str, library: str) -> None:
    """Raise `Failed` unless the library is there that the command needs, and that the extra has."""
    if find_spec(library) is None:
        raise Failed(f"zapq {command} needs the extra {extra}: pip install '.[{extra}]' in a checkout of zapq.")


def run_program(main: Callable[[OnStop], Awaitable[None]]) -> int:
    """Run `main` until it ends, and return the exit code.

    The first signal has it stop in an orderly way, which is a good end; the second has it cancelled.
    """
    import trio

    from zapq.errors import ZapqError

    code = EXIT_OK
    stop: Callable[[], object] = lambda: None  # noqa: E731 (there is nothing to stop yet)

    def on_stop(how: Callable[[], object]) -> None:
        nonlocal stop
        stop = how

    async def run() -> None:
        with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
            async with trio.open_nursery() as nursery:

                async def watch() -> None:
                    nonlocal code
                    await signals.__anext__()
                    stop()
                    # A second one at once is the same: sent to us, and to the process group that we are in.
                    with trio.move_on_after(SIGNAL_ECHO_SECONDS):
                        async for _ in signals:
                            pass
                    code = EXIT_SIGNAL + await signals.__anext__()
                    nursery.cancel_scope.cancel()

                nursery.start_soon(watch)
                await main(on_stop)
                nursery.cancel_scope.cancel()

    try:
        trio.run(run)
    except (ZapqError, Failed, ExceptionGroup) as error:
        refusals = list(_alone(error))
        if not all(isinstance(each, ZapqError | Failed) for each in refusals):
            raise
        # Many tasks may have found the same.
        return fail(str(refusals[0]), EXIT_FAILED)
    return code


def _alone(error: Exception) -> Iterator[Exception]:
    """Yield the errors that are in a group, or the one that is in none."""
    if isinstance(error, ExceptionGroup):
        for each in error.exceptions:
            yield from _alone(each)
    else:
        yield error


@asynccontextmanager
async def client_of(url: SplitResult) -> AsyncGenerator[Client, None]:
    """Yield a client of the command's server, with its token."""
    from zapq.client import open_client

    try:
        async with open_client(url.geturl(), token=os.environ.get(TOKEN_VARIABLE)) as client:
            yield client
    except ValueError as error:
        raise Failed(str(error)) from None
