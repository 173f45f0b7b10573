"""The command `zapq` as people run it: in a process of its own, to its end or for the length of a block."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import trio

from tests.support.waiting import PATIENCE, eventually

# Whatever is set where the tests run says nothing to the commands they run.
ENVIRON = {name: text for name, text in os.environ.items() if not name.startswith(("ZAPQ_", "QUEUE_"))}
MODULE = [sys.executable, "-m", "zapq"]
SCRIPT = [sys.executable, "-c", "from zapq.__main__ import main; main()"]
"""As the script `zapq` that pip makes."""
Run = Callable[..., Awaitable[subprocess.CompletedProcess[bytes]]]
"""What runs the script against the server of a test: the fixture `run` in tests/command."""


def run(*arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    """Run the command to its end."""
    command = [*MODULE, *arguments]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=PATIENCE, env=ENVIRON | environ, check=False
    )


def assert_one_line(refused: subprocess.CompletedProcess[str], code: int, complaint: str) -> None:
    assert (refused.returncode, refused.stdout) == (code, ""), refused
    assert refused.stderr.startswith("zapq: ")
    assert complaint in refused.stderr
    assert refused.stderr.count("\n") == 1


def shown(result: subprocess.CompletedProcess[bytes]) -> tuple[int, bytes, bytes]:
    """Return what there is to see of a command that has ended."""
    return result.returncode, result.stdout, result.stderr


def as_text(result: subprocess.CompletedProcess[bytes]) -> subprocess.CompletedProcess[str]:
    return subprocess.CompletedProcess(
        result.args, result.returncode, result.stdout.decode(), result.stderr.decode()
    )


def messages(output: str) -> list[dict[str, Any]]:
    """Return what a log says, line by line."""
    return [msgspec.json.decode(line) for line in output.splitlines()]


def server_command(directory: Path, *flags: str) -> list[str]:
    """Return the command that serves the data in `directory`, on a free port if `flags` say nothing else.

    With an engine elsewhere there is none.
    """
    data = () if "--engine" in flags else ("--data-dir", str(directory))
    return [*MODULE, "--addr", "127.0.0.1:0", *data, *flags]


def listening(log: Iterable[str]) -> dict[str, Any] | None:
    """Read `log` until it says that the server listens, and return that line; None if it ends before."""
    for line in log:
        said: dict[str, Any] = msgspec.json.decode(line)
        if said["msg"] == "queue listening":
            return said
    return None


@contextmanager
def serving(
    directory: Path, *arguments: str, stdin: int = subprocess.DEVNULL, **environ: str
) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Run the command with exactly these arguments, and yield its process and the first line it logs.

    Then it is listening. What it logs goes to a pipe, for the test to read.
    """
    with subprocess.Popen(
        [*MODULE, *arguments, "--data-dir", str(directory)],
        stdin=stdin,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=ENVIRON | environ,
    ) as process:
        assert process.stdout is not None
        try:
            yield process, process.stdout.readline()
        finally:
            process.kill()


def open_sockets(pid: int) -> int:
    """Return how many of a process's descriptors are sockets; files come and go meanwhile."""
    return sum(entry.is_socket() for entry in Path(f"/proc/{pid}/fd").iterdir())


@dataclass
class Zapq:
    """A server that listens."""

    process: trio.Process
    addr: str
    log: Path
    """What it has printed, errors included."""

    @property
    def url(self) -> str:
        return self.addr if self.addr.startswith("unix:") else f"http://{self.addr}"

    async def stop(self, number: int = signal.SIGTERM) -> None:
        """Send the signal and return once the process has noticed it."""
        before = self._signals()
        self.process.send_signal(number)
        await eventually(
            lambda: self.process.poll() is not None or self._signals() > before, "the signal to be noticed"
        )

    def _signals(self) -> int:
        return self.lines().count("signal received")

    def lines(self) -> str:
        return self.log.read_text()

    def messages(self) -> list[dict[str, Any]]:
        return messages(self.lines())


@asynccontextmanager
async def running_zapq(
    directory: Path,
    *flags: str,
    log: Path | None = None,
    wrapper: Sequence[str] = (),
    preexec_fn: Callable[[], object] | None = None,
) -> AsyncGenerator[Zapq, None]:
    """Serve the data in `directory`, or an engine, for the length of the block. Killed if it is left over.

    What it prints goes to a file. `wrapper` is a command that starts it, such as strace.
    """
    log = log or directory / "log"
    command = [*wrapper, *server_command(directory, *flags)]
    with log.open("wb") as output:
        process = await trio.lowlevel.open_process(
            command, stdout=output, stderr=subprocess.STDOUT, env=ENVIRON, preexec_fn=preexec_fn
        )
    said: dict[str, Any] | None = None

    def listens() -> bool:
        nonlocal said
        # A line may have been written in part.
        said = listening(line for line in log.read_text().splitlines(keepends=True) if line.endswith("}\n"))
        assert process.poll() is None, log.read_text()
        return said is not None

    try:
        await eventually(listens, "the server to listen")
        assert said is not None
        yield Zapq(process, said["addr"], log)
    finally:
        if process.poll() is None:
            process.kill()
            with trio.CancelScope(shield=True):
                await process.wait()
