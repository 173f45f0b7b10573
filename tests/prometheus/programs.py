"""Prometheus itself: promtool, and a server for the length of a block."""

from __future__ import annotations

import subprocess
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import trio

from tests.support.ports import free_ports
from tests.support.waiting import eventually
from tests.support.wire import ask

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Programs:
    """Where scripts/prometheus has put them."""

    home: Path

    def promtool(self, *arguments: str | Path, read: bytes = b"") -> None:
        """Run promtool, which is given `read` and must find nothing wrong."""
        command = [self.home / "promtool", *arguments]
        ended = subprocess.run(command, input=read, capture_output=True, timeout=30, check=False)
        assert (ended.returncode, ended.stderr) == (0, b""), ended

    @asynccontextmanager
    async def running(self, directory: Path, configuration: Path) -> AsyncGenerator[Prometheus, None]:
        """Run the server with a configuration; what it stores goes to `directory`."""
        [port] = free_ports(1)
        log = directory / "prometheus.log"
        with log.open("wb") as output:
            process = await trio.lowlevel.open_process(
                [
                    str(self.home / "prometheus"),
                    f"--config.file={configuration}",
                    f"--storage.tsdb.path={directory / 'series'}",
                    f"--web.listen-address=127.0.0.1:{port}",
                ],
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        prometheus = Prometheus(f"http://127.0.0.1:{port}")

        async def ready() -> bool:
            assert process.poll() is None, log.read_text()
            try:
                return (await ask(prometheus.url, "GET", "/-/ready")).status == 200
            except OSError:
                return False

        try:
            await eventually(ready, "Prometheus to be ready")
            yield prometheus
        finally:
            process.kill()
            with trio.CancelScope(shield=True):
                await process.wait()


@dataclass(frozen=True)
class Prometheus:
    """One that runs."""

    url: str

    async def _data(self, target: str) -> Any:
        answer = (await ask(self.url, "GET", f"/api/v1/{target}")).json
        assert answer["status"] == "success", (target, answer)
        return answer["data"]

    async def query(self, expression: str) -> list[tuple[Mapping[str, str], float]]:
        """Return the labels and the value of each series that an expression gives now."""
        data = await self._data(f"query?query={quote(expression, safe='')}")
        assert data["resultType"] == "vector"
        return [(each["metric"], float(each["value"][1])) for each in data["result"]]

    async def firing(self) -> list[Mapping[str, Any]]:
        """Return the alerts that fire now."""
        return [each for each in (await self._data("alerts"))["alerts"] if each["state"] == "firing"]

    async def healthy_targets(self) -> int:
        """Return how many targets were scraped well the last time."""
        return sum(each["health"] == "up" for each in (await self._data("targets"))["activeTargets"])
