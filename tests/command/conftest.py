"""A server in the test's own process, and the command as people type it against that."""

from __future__ import annotations

import subprocess
from functools import partial
from typing import Any

import pytest
import trio

from tests.support.process import ENVIRON, SCRIPT, Run
from tests.support.typed import TypeIn, typed
from zapq.service.named_queue import NamedQueue
from zapq.testing import ZapqServer


@pytest.fixture
def zapq_url(zapq_server: ZapqServer) -> str:
    return zapq_server.url


@pytest.fixture
def run(zapq_url: str) -> Run:
    """Run the command against the server in this process, and wait for its end."""

    async def run(*arguments: str, stdin: bytes = b"", **environ: str) -> subprocess.CompletedProcess[bytes]:
        return await trio.run_process(
            [*SCRIPT, *arguments],
            stdin=stdin,
            capture_stdout=True,
            capture_stderr=True,
            check=False,
            env=ENVIRON | {"ZAPQ_URL": zapq_url} | environ,
        )

    return run


@pytest.fixture
def emails(zapq_server: ZapqServer) -> NamedQueue:
    return zapq_server.service.queue("emails")


@pytest.fixture
def type_in(zapq_url: str) -> TypeIn:
    """Run the command in a thread of this process, against the server in it; see `tests/support/typed.py`."""

    async def type_in(*words: str, **how: Any) -> subprocess.CompletedProcess[str]:
        environ = {"ZAPQ_URL": zapq_url} | how.pop("environ", {})
        return await trio.to_thread.run_sync(partial(typed, *words, environ=environ, **how))

    return type_in
