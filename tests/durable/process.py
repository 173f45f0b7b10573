"""A real zapq on disk: started, asked, killed without warning."""

from __future__ import annotations

import http.client
import json
import os
import signal
import subprocess
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.support import process
from tests.support.process import listening, server_command

# Coverage writes a file of its own at the end: one more write that would be counted, or would fail.
ENVIRON = {name: text for name, text in process.ENVIRON.items() if not name.startswith("COVERAGE_")}


@dataclass
class Reply:
    """What was answered."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Link:
    """One keep-alive connection of a client. Every failure is OSError or `http.client.HTTPException`."""

    def __init__(self, port: int, patience: float = 20.0) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=patience)

    def ask(self, method: str, target: str, body: bytes = b"", headers: Mapping[str, str] | None = None) -> Reply:
        """Send a request and return the answer."""
        self._connection.request(method, target, body, dict(headers or {}))
        answer = self._connection.getresponse()
        return Reply(answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read())

    def close(self) -> None:
        """Be gone."""
        self._connection.close()


@dataclass
class Server:
    """One run of the server. `wrapper` is a command that starts it, such as strace."""

    directory: Path
    wrapper: Sequence[str] = ()
    port: int = 0
    log: list[str] = field(default_factory=list)

    def start(self) -> bool:
        """Start it, and return whether it came as far as listening."""
        self._process = subprocess.Popen(
            [*self.wrapper, *server_command(self.directory, "--durable", "--grace", "5")],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL if self.wrapper else None,
            env=ENVIRON,
            text=True,
        )
        assert self._process.stdout is not None
        said = listening(self._logged(self._process.stdout))
        if said is None:
            return False
        self.port = int(said["addr"].rpartition(":")[2])
        return True

    def _logged(self, lines: Iterable[str]) -> Iterator[str]:
        for line in lines:
            self.log.append(line)
            yield line

    def kill(self) -> None:
        """End it as a crash does; nothing happens if it has ended."""
        if self._process.returncode is None:
            self._process.send_signal(signal.SIGKILL)
            self.wait()

    def stop(self) -> int:
        """End it in order, and return its exit code."""
        self._process.send_signal(signal.SIGTERM)
        return self.wait()

    def signal_child(self, number: int) -> None:
        """Send a signal to what the wrapper has started."""
        children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children").read_text()
        for child in children.split():
            os.kill(int(child), number)

    def wait(self) -> int:
        """Wait until it has ended, and return its exit code."""
        assert self._process.stdout is not None
        self.log += self._process.stdout
        self._process.stdout.close()
        return self._process.wait(60)
