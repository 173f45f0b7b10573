"""What the benchmarks share: programs from Debian's packages, a server on one core, load from the other."""

from __future__ import annotations

import os
import platform
import re
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import trustme

from tests.support.ports import free_ports

MESSAGE = 128
"""Bytes of each message."""
STARTING_SECONDS = 45
"""Seconds a server may take to start, and to end: far more than a busy machine takes."""
RIVALS = Path(__file__).parent / "rivals"


@dataclass(frozen=True, slots=True)
class Figures:
    """What one server did under one load."""

    requests: int
    per_second: float
    cpu_us: float
    """Microseconds of the server's CPU for each request."""
    p50_ms: float
    p99_ms: float
    behind_us: float = 0.0
    """Microseconds of CPU, for each request, of the process that the server had do something."""


def median(rounds: list[Figures]) -> Figures:
    """Return the figures of the round with the median CPU a request."""
    return sorted(rounds, key=lambda each: each.cpu_us)[len(rounds) // 2]


def install(program: str, package: str) -> None:
    """Make `program` available from Debian's packages if it is not."""
    if shutil.which(program, path=f"{os.environ['PATH']}:/usr/sbin:/sbin") is not None:
        return
    print(f"installing {package} from Debian's packages", flush=True)
    root = [] if os.geteuid() == 0 else ["sudo"]
    quiet = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    subprocess.run([*root, "apt-get", "update", "-qq"], check=True, stdout=subprocess.DEVNULL, env=quiet)
    subprocess.run(
        [*root, "apt-get", "install", "-y", "-qq", package], check=True, stdout=subprocess.DEVNULL, env=quiet
    )


def cores() -> tuple[list[str], list[str]]:
    """Return command prefixes that put a server on one core and its load on another, where there are two."""
    available = sorted(os.sched_getaffinity(0))
    if len(available) < 2 or shutil.which("taskset") is None:
        return [], []
    return ["taskset", "-c", str(available[0])], ["taskset", "-c", ",".join(map(str, available[1:]))]


@contextmanager
def on_the_other_core() -> Iterator[None]:
    """Run this process where the server does not run, for the length of the block."""
    available = os.sched_getaffinity(0)
    if len(available) > 1:
        os.sched_setaffinity(0, available - {min(available)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, available)


def free_port() -> int:
    """Return a port of 127.0.0.1 for servers that this program starts."""
    [port] = free_ports(1)
    return port


def certificate(directory: str) -> tuple[str, str]:
    """Write a certificate for this machine and its key into `directory` and return their files."""
    made = trustme.CA().issue_cert("127.0.0.1", "localhost")
    cert, key = f"{directory}/cert.pem", f"{directory}/key.pem"
    for number, blob in enumerate(made.cert_chain_pems):
        blob.write_to_path(cert, append=number > 0)
    made.private_key_pem.write_to_path(key)
    return cert, key


def go_queue(directory: str) -> list[str] | None:
    """Build the queue on Go's net/http and return its command, or None, having said so, where there is no Go.

    `{port}` stands for its port; with the files of a certificate and its key behind it, it serves TLS.
    """
    if shutil.which("go") is None:
        print("no go here: leaving out the queue on net/http (Debian: apt-get install golang-go)", flush=True)
        return None
    program = f"{directory}/net_http_queue"
    subprocess.run(["go", "build", "-o", program, str(RIVALS / "net_http_queue.go")], check=True)
    # One thread runs Go code, as everywhere else here.
    return ["env", "GOMAXPROCS=1", program, "{port}"]


@contextmanager
def running(command: list[str], port: int) -> Iterator[int]:
    """Run a server for the length of the block, on a core of its own, and yield its process id."""
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen([*cores()[0], *command], stdout=output, stderr=output)
        try:
            _wait_for(process, port)
            yield process.pid
        except BaseException:
            output.seek(0)
            print(output.read().decode(errors="replace")[-2000:])
            raise
        finally:
            process.terminate()
            process.wait(STARTING_SECONDS)


def _wait_for(process: subprocess.Popen[bytes], port: int) -> None:
    deadline = time.monotonic() + STARTING_SECONDS
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise RuntimeError(f"the server ended with code {process.returncode}")
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            time.sleep(0.02)
        else:
            return
    raise RuntimeError("the server does not answer")


def cpu_seconds(pid: int) -> float:
    """Return the CPU a process has used so far, its own and the kernel's for it.

    The sum that /proc/PID/stat shows in ticks of 10 ms, to the nanosecond: of a short run a tick is a large part.
    """
    return time.clock_gettime(cpu_clock(pid))


def cpu_clock(pid: int) -> int:
    """Return the clock of a process's CPU, as clock_getcpuclockid(3) does: Python has that for threads only."""
    return ~pid << 3 | 2


def resident_bytes(pid: int) -> int:
    """Return how much memory a process holds."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def wrk(
    pid: int,
    url: str,
    connections: int,
    seconds: int,
    *,
    post: bool = False,
    body: bool = True,
    script: str = "",
    behind: int | None = None,
) -> Figures:
    """Load `url` with wrk on keep-alive connections; raises RuntimeError if anything was refused.

    `behind` is a process that the server, `pid`, has do something for each request.
    """
    install("wrk", "wrk")
    with tempfile.NamedTemporaryFile("w", suffix=".lua") as file:
        if post:
            size = MESSAGE if body else 0
            script = f'wrk.method = "POST"\nwrk.body = string.rep("x", {size})\n' + script
        file.write(script)
        file.flush()
        command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--latency", "-s", file.name, url]
        pids = [pid] if behind is None else [pid, behind]
        before = [cpu_seconds(each) for each in pids]
        out = subprocess.run([*cores()[1], *command], check=True, capture_output=True, text=True).stdout
    used = [cpu_seconds(each) - begun for each, begun in zip(pids, before, strict=True)]
    if "Non-2xx" in out or "Socket errors" in out:
        raise RuntimeError(f"not everything was answered:\n{out}")
    requests = int(_find(r"(\d+) requests in", out))
    return Figures(
        requests=requests,
        per_second=float(_find(r"Requests/sec:\s+([\d.]+)", out)),
        cpu_us=used[0] / requests * 1e6,
        p50_ms=_milliseconds(_find(r"50%\s+([\d.]+[a-z]+)", out)),
        p99_ms=_milliseconds(_find(r"99%\s+([\d.]+[a-z]+)", out)),
        behind_us=0.0 if behind is None else used[1] / requests * 1e6,
    )


def hey(pid: int, url: str, connections: int, requests: int) -> Figures:
    """Load `url` with hey, a connection for each request."""
    install("hey", "hey")
    command = ["hey", "-n", str(requests), "-c", str(connections), "-disable-keepalive", "-m", "POST"]
    before = cpu_seconds(pid)
    out = subprocess.run(
        [*cores()[1], *command, "-d", "x" * MESSAGE, url], check=True, capture_output=True, text=True
    ).stdout
    used = cpu_seconds(pid) - before
    answered = int(_find(r"\[202\]\s+(\d+) responses", out))
    return Figures(
        requests=answered,
        per_second=float(_find(r"Requests/sec:\s+([\d.]+)", out)),
        cpu_us=used / answered * 1e6,
        p50_ms=float(_find(r"50%+ in ([\d.]+) secs", out)) * 1000,
        p99_ms=float(_find(r"99%+ in ([\d.]+) secs", out)) * 1000,
    )


def children(pid: int) -> list[int]:
    """Return the processes that a process has started, whichever of its threads did."""
    tasks = Path(f"/proc/{pid}/task").glob("*/children")
    return [int(child) for each in tasks for child in each.read_text().split()]


def machine() -> str:
    """Describe this machine in a few words."""
    model = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    name = model[1] if model else platform.machine()
    linux = platform.release().partition("-")[0]
    return f"{name}, {os.cpu_count()} cores, Linux {linux}, Python {platform.python_version()}"


def _find(pattern: str, text: str) -> str:
    found = re.search(pattern, text)
    if found is None:
        raise RuntimeError(f"unexpected output:\n{text}")
    return found[1]


def _milliseconds(text: str) -> float:
    number, unit = re.fullmatch(r"([\d.]+)([a-z]+)", text).groups()  # type: ignore[union-attr]
    return float(number) * {"us": 0.001, "ms": 1.0, "s": 1000.0, "m": 60_000.0}[unit]
