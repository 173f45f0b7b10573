"""A real server on a disk that really fails: calls that are refused by the kernel, a full file system, a limit.

What could not be stored is 503, and is not there after a kill; what was answered is. Looking on goes on, and so
does everything once the disk is fine.
"""

from __future__ import annotations

import http.client
import os
import resource
import shutil
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple, Self

import msgspec
import pytest

from tests.durable.history import WAL, copy, opened
from tests.durable.process import ENVIRON
from tests.support.process import MODULE, assert_one_line, listening, messages, run, server_command
from tests.support.waiting import eventually_sync
from zapq.store.schema import FILE
from zapq.store.wal import PAGE

pytestmark = pytest.mark.slow  # it starts servers, and the gate runs it

PATIENCE = 30.0
"""Seconds anything may take before a test fails."""
LARGE = 120_000
"""Bytes of a message that takes many pages."""


class Answer(NamedTuple):
    status: int
    body: bytes


class Server:
    """A server in a process of its own, and what it has answered for: what must be there, whatever happens."""

    def __init__(self, directory: Path, *before: str, options: Sequence[str] = ()) -> None:
        self.directory = directory
        self.before = before
        self.options = options
        self.default: list[bytes] = []
        self.work: set[bytes] = set()
        self.refused = 0
        self.requests = 0
        self.start()

    def start(self) -> None:
        self.process = subprocess.Popen(
            [*self.before, *server_command(self.directory, "--durable", *self.options)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=ENVIRON,
            text=True,
        )
        assert self.process.stdout is not None
        said = listening(self.process.stdout)
        assert said is not None
        self.http = http.client.HTTPConnection(said["addr"], timeout=PATIENCE)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def kill(self) -> None:
        self.http.close()
        if self.process.poll() is None:
            self.process.kill()
            self.process.communicate()

    def stop(self) -> list[dict[str, Any]]:
        """End it in order, and return what it has logged."""
        self.http.close()
        self.process.terminate()
        output, _ = self.process.communicate()
        lines = messages(output)
        assert lines[-1]["msg"] == "bye"
        return lines

    def ask(self, method: str, path: str, body: bytes = b"") -> Answer:
        self.requests += 1
        self.http.request(method, path, body)
        answer = self.http.getresponse()
        self.receipt = answer.headers.get("Zapq-Receipt", "")
        content = answer.read()
        if answer.status == 503 and path != "/readyz":
            assert b"storage-unavailable" in content
            self.refused += 1
        return Answer(answer.status, content)

    def enqueue(self, size: int = 50) -> bool:
        """Send a message, and say whether it was taken."""
        body = b"%d" % self.requests
        status, _ = self.ask("POST", "/enqueue", body.ljust(size, b"."))
        assert status in {202, 503}
        if status == 202:
            self.default.append(body)
        return status == 202

    def dequeue(self) -> bool:
        status, body = self.ask("GET", "/dequeue")
        if not self.default:
            # Nothing to take is nothing to write, whatever the disk does.
            assert status == 204
        elif status == 200:
            assert body.rstrip(b".") == self.default.pop(0)
        else:
            assert status == 503
        return status != 503

    def do_work(self) -> bool:
        """Send a message, receive one under a lease, and acknowledge it."""
        body = b"work %d" % self.requests
        if self.ask("POST", "/queues/work/messages", body).status == 503:
            return False
        self.work.add(body)
        answer = self.ask("POST", "/queues/work/receive?visibility=600")
        if answer.status == 503:
            return False
        assert answer.status == 200
        status, _ = self.ask("DELETE", f"/queues/work/receipts/{self.receipt}")
        assert status in {204, 503}
        if status == 204:
            self.work.remove(answer.body)
        return status != 503

    def until_refused(self, steps: int = 200) -> bool:
        """Do some of everything until something is refused, and say whether something was."""
        for step in range(steps):
            # One more comes than goes.
            if not (self.enqueue() if step % 4 < 2 else self.dequeue() if step % 4 == 2 else self.do_work()):
                return True
        return False

    def look(self) -> None:
        """Assert that what needs no write goes on while nothing can be written."""
        shown = self.ask("GET", "/queues/default/messages?limit=10")
        assert (shown.status, len(msgspec.json.decode(shown.body))) == (200, min(10, len(self.default)))
        assert self.ask("GET", "/queues").status == 200
        assert self.ask("GET", "/livez").status == 200
        assert msgspec.json.decode(self.ask("GET", "/metrics").body)["storage_available"] == 0
        ready = self.ask("GET", "/readyz")
        assert (ready.status, b"storage-unavailable" in ready.body) == (503, True)
        assert b"The server cannot write to its disk: " in ready.body
        assert self.ask("GET", "/queues/empty/messages").status in {200, 404}
        assert not self.enqueue()
        assert not self.dequeue() or not self.default

    def stores(self) -> bool:
        """Say whether messages are stored at the moment."""
        return bool(msgspec.json.decode(self.ask("GET", "/metrics").body)["storage_available"])

    def recover(self) -> None:
        """Wait until changes are written again, of its own accord."""
        eventually_sync(self.stores, "the disk to take messages again")
        assert self.enqueue()
        assert self.dequeue()
        assert self.do_work()

    def audit(self, place: Path, directory: Path | None = None) -> str:
        """Assert that what was answered for is there after a kill, and nothing else; return the warning."""
        found: dict[str, list[bytes]] = {}
        with opened(copy(directory or self.directory, place)) as (_, view, warning):
            for kept, held in view["queues"].values():
                found[kept.name] = [body.rstrip(b".") for _, (body, _, _) in sorted(held.items())]
        assert found["default"] == self.default
        assert set(found.get("work", [])) == self.work
        return warning


def may_trace() -> bool:
    """Whether a process may be traced that runs already."""
    if shutil.which("strace") is None:
        return False
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE) as child:
        tracing = ["strace", "-o", os.devnull, "-p", str(child.pid)]
        with subprocess.Popen(tracing, stderr=subprocess.PIPE) as strace:
            assert strace.stderr is not None
            attached = b"attached" in strace.stderr.readline()
            strace.terminate()
            strace.communicate()
        child.communicate()
    return attached


@contextmanager
def failing(server: Server, file: str, call: str, error: str, when: str) -> Iterator[Path]:
    """Let the kernel refuse `call` on `file` with `error`, when `when` says; yield a file that tells of it."""
    with injecting(server, call, f"error={error}:when={when}", file) as trace:
        yield trace


@contextmanager
def injecting(server: Server, call: str, what: str, *files: str) -> Iterator[Path]:
    """Let the kernel do `what` to `call` on `files`; yield a file that tells of it."""
    trace = server.directory.with_name("trace")
    trace.unlink(missing_ok=True)
    command = ["strace", "-f", "-o", str(trace), "-e", f"trace={call}", "-e", f"inject={call}:{what}"]
    for file in files:
        command += ["-P", str(server.directory / file)]
    command += ["-p", str(server.process.pid)]
    with subprocess.Popen(command, stderr=subprocess.PIPE) as strace:
        assert strace.stderr is not None
        try:
            while b"attached" not in (line := strace.stderr.readline()):
                assert b"Requested path" in line, line
            yield trace
        finally:
            strace.terminate()
            try:
                strace.communicate(timeout=3)
            except subprocess.TimeoutExpired:  # it delays a call
                strace.kill()
                strace.communicate()


@pytest.fixture
def thorough(nightly: bool) -> bool:
    """Whether to try every call."""
    return nightly


@pytest.fixture(scope="module")
def tracing() -> None:
    if not may_trace():
        pytest.skip("strace is not here, or may not trace")


SYNC = "fdatasync,fsync"
SAMPLES = [
    (WAL, call, error, when)
    for call, error, when in [
        ("pwrite64", "EIO", "1"),
        ("pwrite64", "ENOSPC", "2+"),
        ("pwrite64", "EIO", "3"),
        ("pwrite64", "ENOSPC", "4"),
        ("pwrite64", "EIO", "7+"),
        ("pwrite64", "ENOSPC", "15"),
        (SYNC, "EIO", "1"),
        (SYNC, "EIO", "1+"),
        (SYNC, "ENOSPC", "2+"),
        (SYNC, "EIO", "5"),
    ]
] + [(FILE, "pwrite64", "EIO", "1"), (FILE, "pwrite64", "ENOSPC", "30+"), (FILE, SYNC, "EIO", "1+")]


def every_call() -> list[tuple[str, str, str, str]]:
    whens = [f"{at}{on}" for at in range(1, 41) for on in ("", "+")]
    calls = [*product([WAL], ["pwrite64", SYNC], ["EIO", "ENOSPC"], whens)]
    calls += product([FILE], ["pwrite64"], ["EIO", "ENOSPC"], ["1", "1+", "9", "9+", "99", "99+"])
    return [*calls, *product([FILE], [SYNC], ["EIO"], ["1", "1+"])]


@pytest.mark.usefixtures("tracing")
@pytest.mark.timeout(3600)
def test_calls_that_fail(tmp_path: Path, thorough: bool) -> None:
    directory = tmp_path / "data"
    directory.mkdir()
    warnings: list[str] = []
    with Server(directory) as server:
        cases = every_call() if thorough else SAMPLES
        for number, (file, call, error, when) in enumerate(cases):
            with failing(server, file, call, error, when) as trace:
                if file == FILE:
                    # Emptying the log into it, which nobody waits for: it need not show in an answer.
                    while b"INJECTED" not in trace.read_bytes():
                        server.enqueue(LARGE)
                elif error == "ENOSPC" and not when.endswith("+"):
                    # Written with the space that is set aside; messages are refused for a moment at most.
                    while b"INJECTED" not in trace.read_bytes():
                        server.until_refused()
                else:
                    assert server.until_refused(), (file, call, error, when)
                    if when.endswith("+"):
                        server.look()
            server.recover()
            while server.default and server.dequeue():
                pass
            assert server.enqueue()
            if number % 4 == 3 or number == len(cases) - 1:
                server.kill()
                warnings.append(server.audit(tmp_path / str(number)))
                server.start()
        print(len(cases), "cases,", server.requests, "requests,", server.refused, "refused;", warnings)
        server.stop()
    assert server.audit(tmp_path / "stopped") == ""


@pytest.mark.usefixtures("tracing")
def test_a_log_that_cannot_be_emptied_does_not_grow_for_ever(tmp_path: Path) -> None:
    directory = tmp_path / "data"
    directory.mkdir()
    with Server(directory) as server:
        with failing(server, FILE, "pwrite64", "ENOSPC", "1+") as trace:
            while server.ask("GET", "/readyz").status == 200:
                server.enqueue(LARGE)
            length, failures = (directory / WAL).stat().st_size, trace.read_bytes().count(b"INJECTED")
            # Nobody asks for anything, and the disk is tried again and again.
            eventually_sync(lambda: trace.read_bytes().count(b"INJECTED") >= failures + 5, "five attempts")
            assert (directory / WAL).stat().st_size == length
            server.look()
        server.recover()
        output = server.stop()
    assert [line["msg"] for line in output].count("storage unavailable") == 1
    assert server.audit(tmp_path / "stopped") == ""


@pytest.mark.usefixtures("tracing")
def test_a_sync_that_fails_and_a_kill_before_the_next_write(tmp_path: Path) -> None:
    """What was answered 503 may be there: it was written, and then nobody was left to write over it.

    zapq does that as soon as it tries the disk again, within a quarter of a second; then it is gone for good.
    """
    directory = tmp_path / "data"
    directory.mkdir()
    with Server(directory) as server:
        assert server.enqueue()
        with failing(server, WAL, SYNC, "EIO", "1+"):
            refused = b"%d" % server.requests
            assert not server.enqueue()
            server.kill()
        with opened(copy(directory, tmp_path / "killed")) as (_, view, _):
            [(_, held)] = view["queues"].values()
            bodies = [body.rstrip(b".") for _, (body, _, _) in sorted(held.items())]
        assert bodies in (server.default, [*server.default, refused])
        print("there" if refused in bodies else "not there")
        server.default = bodies
        server.start()
        with failing(server, WAL, SYNC, "EIO", "1+") as trace:
            assert not server.enqueue()
            # The second one that fails is that of the first attempt to write again.
            eventually_sync(lambda: trace.read_bytes().count(b"INJECTED") >= 2, "another attempt to write")
            server.kill()
        server.audit(tmp_path / "killed later")


@pytest.mark.slow
@pytest.mark.usefixtures("tracing")
def test_a_start_that_fails_is_one_line_and_changes_nothing(tmp_path: Path, thorough: bool) -> None:
    directory = tmp_path / "data"
    directory.mkdir()
    with Server(directory) as server:
        assert not server.until_refused(20)
        server.kill()
    ended = 0
    for number in range(1, 60) if thorough else (1, 4):
        copied = copy(directory, tmp_path / str(number))
        for call in ("pwrite64", "pread64", SYNC):
            # -D: the server is our child, and strace its own business.
            trace = ["strace", "-D", "--seccomp-bpf", "-f", "-o", os.devnull]
            trace += ["-P", str(copied / FILE), "-P", str(copied / WAL)]
            trace += ["-e", f"trace={call}", "-e", f"inject={call}:error=EIO:when={number}+"]
            with subprocess.Popen(
                [*trace, *server_command(copied, "--durable")],
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                env=ENVIRON,
            ) as process:
                assert process.stdout is not None
                started = listening(process.stdout) is not None
                if started:
                    process.kill()
                _, complaint = process.communicate()
            if not started:
                ended += 1
                assert (process.returncode, complaint.count("\n")) == (1, 1), complaint
                assert complaint.startswith((f"zapq: {FILE} ", f"zapq: {copied / FILE} ")), complaint
            server.audit(tmp_path / f"{number} {call}", copied)
    print(ended, "refused to start")
    assert ended


def test_a_database_that_is_moved_away_and_back(tmp_path: Path) -> None:
    directory, away = tmp_path / "data", tmp_path / FILE
    directory.mkdir()
    with Server(directory) as server:
        assert not server.until_refused(20)
        (directory / FILE).rename(away)
        # No client asks for a change meanwhile.
        eventually_sync(lambda: server.ask("GET", "/readyz").status == 503, "the file to be missed")
        server.look()
        away.rename(directory / FILE)
        server.recover()
        output = server.stop()
    said = [line["reason"] for line in output if line["msg"] == "storage unavailable"]
    assert [reason.startswith(f"{FILE} is gone from the data directory.") for reason in said] == [True]
    assert server.audit(tmp_path / "stopped") == ""


SLOW = f"delay_enter={2 * PATIENCE * 1e6:.0f}"
"""What makes each sync take longer than a test waits."""
BUSY = 15.0
"""Seconds a busy machine may need beyond the grace."""


def stopped(server: Server) -> float:
    """Tell the server to stop, and return the seconds until it has ended."""
    server.http.close()
    begun = time.monotonic()
    server.process.terminate()
    # A process that has ended is not gone as long as strace holds one of its threads.
    stat = Path(f"/proc/{server.process.pid}/stat")
    eventually_sync(lambda: stat.read_text().rpartition(")")[2].split()[0] == "Z", "the server to end")
    return time.monotonic() - begun


def words(server: Server) -> tuple[int, list[str]]:
    """Return the exit code of a server that has ended, and what it has said."""
    output, _ = server.process.communicate()
    return server.process.returncode, output.splitlines()


@pytest.mark.usefixtures("tracing")
def test_a_stop_ends_within_the_grace_though_the_log_is_not_emptied(tmp_path: Path) -> None:
    directory, grace = tmp_path / "data", 3.0
    directory.mkdir()
    with Server(directory, options=["--grace", f"{grace}"]) as server:
        assert server.enqueue()
        with injecting(server, SYNC, SLOW, FILE, WAL):
            assert stopped(server) < grace + BUSY
        code, output = words(server)
        [said] = [line for line in messages("\n".join(output)) if line["msg"] == "storage not closed in time"]
        assert (said["level"], said["unwritten"], code) == ("WARNING", 0, 0)
        server.audit(tmp_path / "stopped")


@pytest.mark.usefixtures("tracing")
def test_a_stop_says_how_many_changes_it_could_not_write(tmp_path: Path) -> None:
    directory, grace = tmp_path / "data", 1.0
    directory.mkdir()
    with Server(directory, options=["--grace", f"{grace}"]) as server:
        assert server.enqueue()
        with injecting(server, SYNC, SLOW, WAL):
            for _ in range(3):
                assert server.ask("POST", "/enqueue?durability=memory", b"soon").status == 202
            assert stopped(server) < grace + BUSY
        code, [*lines, complaint] = words(server)
        [said] = [line for line in messages("\n".join(lines)) if line["msg"] == "storage not closed in time"]
        assert (said["level"], said["unwritten"], code) == ("ERROR", 3, 1)
        assert complaint == f"zapq: The disk does not answer, so the last 3 changes may be missing in {FILE}."


class Disk:
    """A small file system of its own, in a namespace of its own that lasts as long as this."""

    def __init__(self, size: str, place: Path) -> None:
        place.mkdir()
        script = f'mount -t tmpfs -o size={size} tmpfs "$0" && echo mounted && exec cat'
        command = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", script, str(place)]
        self.holder = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        assert self.holder.stdout is not None
        self.said = self.holder.stdout.readline().decode()
        self.inside = ["nsenter", "--preserve-credentials", "--user", "--mount", "-t", str(self.holder.pid)]
        # Else it would be /, and another zapq might be found than the one that is tested.
        self.inside.append("--wd=.")
        self.place = place
        self.seen_from_outside = Path(f"/proc/{self.holder.pid}/root{place}")

    def run(self, *command: str, **environ: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*self.inside, *command], capture_output=True, text=True, env=ENVIRON | environ, check=False
        )

    def end(self) -> None:
        self.holder.communicate()


@contextmanager
def mounted(size: str, place: Path) -> Iterator[Disk]:
    if shutil.which("unshare") is None or shutil.which("nsenter") is None:
        pytest.skip("unshare and nsenter are not here")
    disk = Disk(size, place)
    try:
        if disk.said != "mounted\n" or disk.run("true").returncode:
            pytest.skip(f"no file system may be mounted here: {disk.said}")
        yield disk
    finally:
        disk.end()


def test_a_file_that_may_not_grow(tmp_path: Path) -> None:
    directory = tmp_path / "data"
    directory.mkdir()
    with Server(directory) as server:
        assert not server.until_refused(20)
        limits = resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE)
        resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, (6 * 2**20, limits[1]))
        while server.enqueue(LARGE):
            pass
        resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, (PAGE, limits[1]))
        assert not server.enqueue(LARGE)
        server.look()
        resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, limits)
        server.recover()
        server.kill()
        server.audit(tmp_path / "killed")
        server.start()
        server.stop()
    assert server.audit(tmp_path / "stopped") == ""


def test_a_last_commit_that_fails_is_one_line_and_exit_code_1(tmp_path: Path) -> None:
    directory = tmp_path / "data"
    directory.mkdir()
    with Server(directory) as server:
        assert server.enqueue()
        resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, (PAGE, resource.RLIM_INFINITY))
        assert not server.enqueue()
        server.http.close()
        server.process.terminate()
        output, _ = server.process.communicate()
        assert server.process.returncode == 1
        *_, complaint = output.splitlines()
        assert complaint == f"zapq: The last changes could not be written to {FILE}: disk I/O error."
        server.audit(tmp_path / "stopped")
        server.start()
        assert server.dequeue()
        assert not server.default


def test_a_disk_that_is_read_only_at_the_start(tmp_path: Path) -> None:
    with mounted("24m", tmp_path / "disk") as disk, Server(disk.place, *disk.inside) as server:
        assert not server.until_refused(20)
        server.kill()
        assert disk.run("mount", "-o", "remount,ro", str(disk.place)).returncode == 0
        refused = disk.run(*server_command(disk.place, "--durable"))
        assert_one_line(refused, 1, f"{FILE} cannot be ")
        # Looking needs no more.
        shown = disk.run(*MODULE, "check", str(disk.place))
        assert (shown.returncode, shown.stderr, shown.stdout[-4:]) == (0, "", "\nok\n")
        server.audit(tmp_path / "copy", disk.seen_from_outside)
        assert disk.run("mount", "-o", "remount,rw", str(disk.place)).returncode == 0
        server.start()
        server.recover()


def test_a_directory_that_is_read_only_at_the_start(tmp_path: Path) -> None:
    with mounted("24m", tmp_path / "disk") as disk:
        assert disk.run("mount", "-o", "remount,ro", str(disk.place)).returncode == 0
        refused = disk.run(*server_command(disk.place, "--durable"))
        assert_one_line(refused, 1, f"{FILE} cannot be created: Read-only file system.")


@pytest.mark.skipif(os.geteuid() == 0, reason="permissions do not hold for root")
def test_a_file_that_is_not_ours_to_write(tmp_path: Path) -> None:
    directory = tmp_path / "data"
    directory.mkdir()
    with Server(directory) as server:
        server.stop()
    (directory / FILE).chmod(0o400)
    refused = run("--durable", "--addr", "127.0.0.1:0", "--data-dir", str(directory))
    assert_one_line(refused, 1, f"{FILE} cannot be ")
