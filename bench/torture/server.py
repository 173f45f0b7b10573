"""A zapq in a process of its own: started with flags, asked, looked at from outside, stopped or killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import trio

from bench import rig
from tests.support.process import ENVIRON, MODULE, server_command
from tests.support.wire import Answer, ask

STARTING_SECONDS = 30
FURTHER: list[str] = []
"""Flags for every server, besides those a scenario gives it."""


@dataclass(slots=True)
class Server:
    """One run of the server."""

    process: trio.Process
    pid: int
    """That of the server itself, whatever command started it."""
    port: int
    log: Path
    """Standard output and standard error."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def ask(
        self, method: str, target: str, body: bytes = b"", headers: Mapping[str, str] | None = None
    ) -> Answer:
        """Send one request on a connection of its own and return the answer."""
        return await ask(self.url, method, target, body, headers)

    async def metrics(self) -> dict[str, float]:
        """Return what the server says of itself."""
        metrics: dict[str, float] = (await self.ask("GET", "/metrics")).json
        return metrics

    async def stop(self, number: int = signal.SIGTERM) -> int:
        """Send the signal, wait for the end and return the exit code."""
        os.kill(self.pid, number)
        return await self.process.wait()

    def lines(self) -> list[dict[str, Any]]:
        """Return the log so far; what is no JSON object (a traceback, say) has `level` UNFORMATTED."""
        return [_parse(line) for line in self.log.read_text(errors="replace").splitlines()]

    def complaints(self) -> list[str]:
        """Return the lines that should never be there: errors, tracebacks, whatever else was printed."""
        return [str(line) for line in self.lines() if line["level"] not in {"DEBUG", "INFO", "WARNING"}]

    def resident_bytes(self) -> int:
        """Return how much memory it holds."""
        return rig.resident_bytes(self.pid)

    def descriptors(self) -> int:
        """Return how many it has open."""
        return len(os.listdir(f"/proc/{self.pid}/fd"))


@asynccontextmanager
async def running(
    directory: Path, *flags: str, wrapper: Sequence[str] = (), name: str = "log"
) -> AsyncGenerator[Server, None]:
    """Run zapq with `directory` / "data" as its data directory and its log beside it; killed if still there.

    `wrapper` is a command that starts it, such as `prlimit --nofile=64` or strace.
    """
    log = directory / name
    if "--engine" in flags:  # which keeps nothing here
        command = [*MODULE, "--addr", "127.0.0.1:0", *FURTHER, *flags]
    else:
        command = server_command(directory / "data", *FURTHER, *flags)
    with log.open("wb") as output:
        process = await trio.lowlevel.open_process(
            [*wrapper, *command],
            stdout=output,
            stderr=subprocess.STDOUT,
            env=ENVIRON,
        )
    pid = process.pid
    try:
        with trio.fail_after(STARTING_SECONDS):
            while (port := _port(log)) is None:
                if process.poll() is not None:
                    raise RuntimeError(f"the server ended with {process.returncode}: {log.read_text()}")
                await trio.sleep(0.01)
        pid = _innermost(process.pid)
        yield Server(process, pid, port, log)
    finally:
        if process.poll() is None:
            os.kill(pid, signal.SIGKILL)
            with trio.CancelScope(shield=True):
                await process.wait()


def _port(log: Path) -> int | None:
    for line in log.read_text(errors="replace").splitlines():
        said = _parse(line)
        if said["msg"] == "queue listening":
            return int(said["addr"].rpartition(":")[2])
    return None


def _parse(line: str) -> dict[str, Any]:
    try:
        said = json.loads(line)
    except ValueError:
        said = None
    return said if isinstance(said, dict) else {"level": "UNFORMATTED", "msg": line}


def _innermost(pid: int) -> int:
    """Return the process that others were started only for: a wrapper becomes the server, or has it as a child."""
    while children := Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        child = int(children[0])
        if b"zapq.server.worker" in Path(f"/proc/{child}/cmdline").read_bytes():
            break
        pid = child
    return pid
