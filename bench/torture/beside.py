"""A part of a scenario in a process of its own, so that what loads a server does not disturb who measures it."""

from __future__ import annotations

import sys
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import TypeVar

import msgspec
import trio

from bench import rig

T = TypeVar("T")


@asynccontextmanager
async def beside(
    module: str, what: msgspec.Struct, kind: type[T], note: Callable[[T], object]
) -> AsyncGenerator[None, None]:
    """Run `module` for the length of the block, which begins once it says so, and `note` what it tells at the end.

    It is told `what` in a line, writes a byte when it has begun, ends with its input, and then tells a `kind`.
    """
    # Polite, so that whoever measures next to it is not held up by it.
    command = [*rig.cores()[1], "nice", sys.executable, "-m", module]
    process = await trio.lowlevel.open_process(command, stdin=-1, stdout=-1, start_new_session=True)
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        await process.stdin.send_all(msgspec.json.encode(what) + b"\n")
        await process.stdout.receive_some(1)
        yield
        await process.stdin.aclose()
        note(msgspec.json.decode(b"".join([bytes(data) async for data in process.stdout]), type=kind))
    finally:
        process.kill()
        with trio.CancelScope(shield=True):
            await process.wait()
