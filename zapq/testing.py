"""Pytest fixtures for programs that use zapq: a queue, or a whole server, for the length of a test.

Installed with the extra `testing` (`pip install '.[testing]'` in a checkout), pytest finds them by itself.
`zapq_url` is a server in a process of its own, for tests of any kind; `zapq_service` and `zapq_server` are in the
test's own process, for tests that run on Trio. Override `zapq_settings` to change their limits.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import trio

import zapq
from zapq.limits import DEFAULT_QUEUE, IDEMPOTENCY_WINDOW, TEST_SERVER_PATIENCE
from zapq.service.open import open_service
from zapq.service.service import QueueService
from zapq.settings import Settings

if TYPE_CHECKING:
    from zapq.command.http import Connection

__all__ = ["ZapqServer", "zapq_advance", "zapq_server", "zapq_service", "zapq_settings", "zapq_url"]


@dataclass(frozen=True, slots=True)
class ZapqServer:
    """A server in the test's own process: where it listens, and the queue behind it."""

    url: str
    service: QueueService


@pytest.fixture
def zapq_settings(tmp_path: Path) -> Settings:
    """The settings the other fixtures use: the defaults, a free port of 127.0.0.1, snapshots in `tmp_path`."""
    return Settings(addr="127.0.0.1:0", data_dir=str(tmp_path), grace=1.0)


@pytest.fixture
async def zapq_service(zapq_settings: Settings) -> AsyncGenerator[QueueService, None]:
    """A running queue, without sockets; works in virtual time (`autojump_clock`)."""
    async with open_service(zapq_settings) as service:
        yield service


@pytest.fixture
async def zapq_server(zapq_service: QueueService, zapq_settings: Settings) -> AsyncGenerator[ZapqServer, None]:
    """A server on a port of its own, in front of `zapq_service`."""
    async with trio.open_nursery() as nursery:

        async def run(*, task_status: trio.TaskStatus[list[str]]) -> None:
            await zapq.serve(zapq_settings, service=zapq_service, task_status=task_status)

        [url] = await nursery.start(run)
        yield ZapqServer(url, zapq_service)
        nursery.cancel_scope.cancel()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Give pytest `--zapq-url`."""
    parser.addoption(
        "--zapq-url",
        metavar="URL",
        help="Server for tests that zapq_url gives, instead of one of its own. Its queues are removed.",
    )


class _Process:
    """A server in a process of its own, started again if a test has stopped or drained it."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._process: subprocess.Popen[bytes] | None = None
        self.url = ""

    def start(self) -> None:
        """Start it, and return once it takes messages."""
        log = self._directory / "zapq.log"
        environ = {name: text for name, text in os.environ.items() if not name.startswith(("ZAPQ_", "QUEUE_"))}
        with socket.create_server(("127.0.0.1", 0), backlog=1024) as listening, log.open("wb") as output:
            # Its clients wait in the backlog until it accepts them, and are refused if it cannot start.
            number = listening.fileno()
            self.url = f"http://127.0.0.1:{listening.getsockname()[1]}"
            self._process = subprocess.Popen(  # noqa: S603 (this Python, with arguments of ours)
                [
                    *(sys.executable, "-m", "zapq", "--addr", f"fd://{number}", "--test-clock"),
                    *("--data-dir", str(self._directory), "--grace", "1"),
                ],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=environ,
                pass_fds=[number],
            )
        if not self._is_ready():
            self.stop()
            pytest.fail(f"zapq could not start:\n{log.read_text()}", pytrace=False)

    def make_ready(self) -> None:
        """Start it, unless it runs and takes messages."""
        if self._process is None or self._process.poll() is not None or not self._is_ready():
            self.stop()
            self.start()

    def stop(self) -> None:
        """End the process."""
        if self._process is not None:
            self._process.terminate()
            try:
                self._process.wait(TEST_SERVER_PATIENCE)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()

    def _is_ready(self) -> bool:
        from zapq.command.http import Failed

        try:
            with _connect(self.url) as connection:
                connection.request("GET", "/readyz", timeout=TEST_SERVER_PATIENCE)
        except Failed:
            return False
        return True


@pytest.fixture(scope="session")
def _zapq_process(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[_Process | str]:
    """The server of all tests of this process: ours, or the URL of another."""
    url = request.config.getoption("--zapq-url")
    if url:
        from zapq.command.http import Failed

        _check_is_for_tests(url)
        yield url
        # For the next run, which finds it as this one did; a server that is gone by now has nothing to remove.
        with suppress(Failed), _connect(url) as connection:
            _remove_queues(connection)
        return
    process = _Process(tmp_path_factory.mktemp("zapq"))
    yield process
    process.stop()


@pytest.fixture
def zapq_url(_zapq_process: _Process | str) -> str:
    """The URL of a server in a process of its own, started once, with no queues of earlier tests."""
    if isinstance(_zapq_process, str):
        url = _zapq_process
    else:
        _zapq_process.make_ready()
        url = _zapq_process.url
    with _connect(url) as connection:
        _remove_queues(connection)
    return url


@pytest.fixture
def zapq_advance(zapq_url: str) -> Callable[[float], None]:
    """`zapq_advance(3600)` moves the time of the server behind `zapq_url` on by an hour, at once."""

    def advance(seconds: float) -> None:
        with _connect(zapq_url) as connection:
            connection.request("POST", "/test/advance", values={"seconds": f"{seconds:.3f}"})

    return advance


def _connect(url: str) -> Connection:
    from zapq.command.http import Connection, parse_url

    try:
        return Connection(parse_url(url))
    except ValueError:
        raise pytest.UsageError(
            f"--zapq-url {url!r}: give http://host:port, https://host:port or unix:/path."
        ) from None


def _check_is_for_tests(url: str) -> None:
    """Fail if the server has messages, which the first test would remove, or if tests would share its queues."""
    if "PYTEST_XDIST_WORKER" in os.environ:
        pytest.fail("With --zapq-url, tests run one after the other: give -n 0.", pytrace=False)
    from zapq.command.http import Failed

    with _connect(url) as connection:
        try:
            queues = connection.request("GET", "/queues").json
        except Failed as failed:
            pytest.fail(f"--zapq-url {str(failed).partition(' Is a server')[0]}", pytrace=False)
    held = [each["name"] for each in queues if each["ready"] + each["delayed"] + each["leased"]]
    if held:
        pytest.fail(
            f"{url} has messages, in {', '.join(held)}. Tests remove all queues of --zapq-url: give a server that"
            " is for tests, and empty.",
            pytrace=False,
        )


def _remove_queues(connection: Connection) -> None:
    """Remove every queue with all it holds, and what is known of the default one, which always is there."""
    from zapq.command.http import Failed, queue_path

    default = queue_path(DEFAULT_QUEUE)
    settings = {"Content-Type": "application/json"}
    connection.request("PUT", default, body=b"{}", headers=settings)
    connection.request("POST", f"{default}/resume")
    connection.request("POST", "/clear")
    names = [each["name"] for each in connection.request("GET", "/queues").json if each["name"] != DEFAULT_QUEUE]
    for name in names:
        # One that dead letters go to cannot be removed before those they come from.
        connection.request("PUT", queue_path(name), body=b"{}", headers=settings)
    for name in names:
        connection.request("DELETE", queue_path(name))
    try:
        # Its Idempotency-Keys.
        connection.request("POST", "/test/advance", values={"seconds": f"{2 * IDEMPOTENCY_WINDOW:.0f}"})
    except Failed:
        return  # a server without --test-clock, whose tests need not expect that
