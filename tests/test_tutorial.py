"""The tutorial is done from start to end, as a reader does it: what it says comes out is what comes out."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import trio

from tests.support.process import ENVIRON
from tests.support.waiting import eventually

TUTORIAL = (Path(__file__).parent.parent / "docs/tutorial/job-queue.md").read_text()
# Of our process alone, so that two runs of this test can use the ports of the tutorial at the same time.
ADDRESS = f"127.87.{os.getpid() >> 8 & 255}.{os.getpid() & 255 or 1}"
# The programs and the lines, what they print, and what is to be stopped between them.
PARTS = re.findall(
    r"(?:^Save this as `([\w.]+)`:\n\n)?^```(\w*)\n(.*?)^```$|^((?:Stop|Kill) the [^\n]*)$",
    TUTORIAL,
    re.DOTALL | re.MULTILINE,
)
STAYS = {"zapq --durable": "server", "python app.py": "app", "python worker.py": "worker"}
"""What each terminal is for, by how its line begins."""


def here(text: str) -> str:
    return re.sub(r"\b(?:localhost|127\.0\.0\.1)\b", ADDRESS, text)


class Reader:
    """A reader copies each program and each line, and has a terminal for each program that stays."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.running: dict[str, trio.Process] = {}
        self.environ = ENVIRON | {
            "PATH": f"{directory / 'bin'}:{ENVIRON['PATH']}",
            "PYTHONUNBUFFERED": "1",
            "ZAPQ_URL": f"http://{ADDRESS}:8080",
        }
        (directory / "bin").mkdir()
        for name, command in (("python", ""), ("zapq", " -m zapq")):
            script = directory / "bin" / name
            # A program that is killed by Ctrl-\ is to leave nothing behind. What a script starts in the background
            # ignores it and Ctrl-C, and so would all it starts, but for this.
            script.write_text(
                f"#!{sys.executable}\nimport os, resource, signal, sys\n"
                "resource.setrlimit(resource.RLIMIT_CORE, (0, 0))\n"
                "signal.signal(signal.SIGINT, signal.SIG_DFL)\n"
                "signal.signal(signal.SIGQUIT, signal.SIG_DFL)\n"
                f"os.execv(sys.executable, [sys.executable, *{command.split()!r}, *sys.argv[1:]])\n"
            )
            script.chmod(0o755)

    def screen(self, terminal: str) -> str:
        return (self.directory / f"{terminal}.out").read_text()

    def rework(self) -> None:
        """Have the first worker work until it is killed, and others no time at all."""
        file = self.directory / "worker.py"
        program = file.read_text()
        seconds = 600 if "time.sleep(3)" in program else 0
        file.write_text(re.sub(r"time\.sleep\(\d+\)", f"time.sleep({seconds})", program))

    async def start(self, terminal: str, line: str) -> None:
        assert terminal not in self.running, terminal
        if terminal == "worker":
            self.rework()
        command = shlex.split(here(line))
        with (self.directory / f"{terminal}.out").open("wb") as output:
            self.running[terminal] = await trio.lowlevel.open_process(
                [str(self.directory / "bin" / command[0]), *command[1:]],
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=self.directory,
                env=self.environ,
            )

    async def stop(self, terminal: str, number: int) -> None:
        process = self.running.pop(terminal)
        process.send_signal(number)
        with trio.CancelScope(shield=True):
            await process.wait()

    async def sees(self, terminal: str, text: str) -> None:
        await eventually(lambda: self.screen(terminal).endswith(text), f"{text!r} from the {terminal}")

    async def prints(self, line: str) -> str:
        """Run a line to its end, and return what it prints. Ages are left out: a busy machine adds to them."""
        result = await trio.run_process(
            ["sh", "-c", here(line)], capture_stdout=True, cwd=self.directory, env=self.environ
        )
        return ageless(result.stdout.decode())

    async def types(self, line: str, shown: str) -> None:
        terminal = next((STAYS[start] for start in STAYS if line.startswith(start)), None)
        if terminal is not None:
            await self.start(terminal, line)
            if terminal == "server":
                await eventually(lambda: "queue listening" in self.screen("server"), "the server to listen")
            elif terminal == "app":
                await eventually(app_listens, "the app to listen")
            await self.sees(terminal, shown.partition("^\\")[0])
            if "^\\" in shown:
                await self.stop(terminal, signal.SIGQUIT)
        elif line.startswith("zapq stats"):

            async def is_shown() -> bool:
                return await self.prints(line) == ageless(shown)

            # The worker asks for its next job a moment after it has said what became of the last one.
            await eventually(is_shown, f"{line!r} to print {shown!r}")
        else:
            assert await self.prints(line) == ageless(shown), line


def ageless(shown: str) -> str:
    return re.sub(r"\b\d+s$", "0s", shown.rstrip("\n"), flags=re.MULTILINE)


async def app_listens() -> bool:
    try:
        stream = await trio.open_tcp_stream(ADDRESS, 8000)
    except OSError:
        return False
    await stream.aclose()
    return True


@pytest.mark.slow
@pytest.mark.timeout(600)  # it starts some forty programs
@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the machine has one loopback address")
async def test_each_step_does_what_it_says(tmp_path: Path) -> None:
    reader = Reader(tmp_path)
    assert [stopped.split()[0] for *_, stopped in PARTS if stopped] == ["Stop", "Kill", "Stop"]
    try:
        for name, language, text, stopped in PARTS:
            if stopped:
                number = signal.SIGINT if "Ctrl-C" in stopped else signal.SIGQUIT
                for terminal in re.findall(r"the (server|app|worker)\b", stopped.partition(".")[0]):
                    await reader.stop(terminal, number)
            elif language == "python":
                (tmp_path / name).write_text(here(text))
            elif language == "console":
                for command in text.removeprefix("$ ").split("\n$ "):
                    line, _, shown = command.partition("\n")
                    await reader.types(line, shown)
            elif language == "text":
                await reader.sees("worker", text)
    finally:
        for terminal in [*reader.running]:
            await reader.stop(terminal, signal.SIGKILL)  # noqa: ASYNC102 - it is killed, and shielded
