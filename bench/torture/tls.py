"""Does TLS keep its word when certificates are wrong, handshakes stall, and files are replaced?

Certificates that cannot be used end the start with exit code 2 before anything is bound. Then one server that
trusts one authority for its clients: clients of others are refused, stalled handshakes disturb nobody else, and
certificates that are replaced again and again drop nothing.
"""

from __future__ import annotations

import os
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
from collections import Counter
from contextlib import AsyncExitStack
from pathlib import Path
from random import Random

import h11
import trio
import trustme

from bench import rig
from bench.torture.report import Report
from bench.torture.server import Server, running
from tests.support.process import ENVIRON
from tests.support.wire import ask, open_client

STALLED, CLIENTS, RELOADS = 500, 8, 20


class Files:
    """A server's certificates on the disk, and the clients that go with them."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.authority = trustme.CA()
        self.cert, self.key, self.clients = (
            directory / "cert.pem",
            directory / "key.pem",
            directory / "clients.pem",
        )
        self.issue()
        self.authority.cert_pem.write_to_path(str(self.clients))

    def issue(self) -> None:
        """Write a new certificate, and its key, as operators do: each file at once."""
        made = self.authority.issue_cert("127.0.0.1", "localhost")
        for path, blobs in ((self.key, [made.private_key_pem]), (self.cert, made.cert_chain_pems)):
            new = path.with_suffix(".new")
            new.write_bytes(b"".join(blob.bytes() for blob in blobs))
            new.rename(path)

    def context(self, issuer: trustme.CA | None) -> ssl.SSLContext:
        """Return what a client speaks that trusts the server; its own certificate, if any, is by `issuer`."""
        context = ssl.create_default_context()
        self.authority.configure_trust(context)
        if issuer is not None:
            issuer.issue_cert("client.internal").configure_cert(context)
        return context


def refuse_bad_certificates(directory: Path, files: Files, random: Random, scale: float, report: Report) -> int:
    """Start servers with certificates that cannot be used, and return how many were refused as they should."""
    other = Files(_made(directory / "other"))
    empty, nonsense, locked = directory / "empty", directory / "nonsense", directory / "locked"
    empty.write_bytes(b"")
    nonsense.write_text("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
    locked.write_bytes(files.key.read_bytes())
    locked.chmod(0)
    cert, key, mine = str(files.cert), str(files.key), str(files.clients)
    cases: dict[str, list[str]] = {
        "cert only": ["--tls-cert", cert],
        "key only": ["--tls-key", key],
        "authorities only": ["--tls-client-ca", mine],
        "no such cert": ["--tls-cert", str(directory / "none"), "--tls-key", key],
        "no such key": ["--tls-cert", cert, "--tls-key", str(directory / "none")],
        "a directory": ["--tls-cert", cert, "--tls-key", str(directory)],
        "an empty key": ["--tls-cert", cert, "--tls-key", str(empty)],
        "a nonsense cert": ["--tls-cert", str(nonsense), "--tls-key", key],
        "mismatched": ["--tls-cert", cert, "--tls-key", str(other.key)],
        "swapped": ["--tls-cert", key, "--tls-key", cert],
        "no such authorities": ["--tls-cert", cert, "--tls-key", key, "--tls-client-ca", str(directory / "none")],
        "empty authorities": ["--tls-cert", cert, "--tls-key", key, "--tls-client-ca", str(empty)],
        "a key for authorities": ["--tls-cert", cert, "--tls-key", key, "--tls-client-ca", key],
    }
    if os.geteuid() != 0:  # root may read everything
        cases["unreadable"] = ["--tls-cert", cert, "--tls-key", str(locked)]
    refused = 0
    chosen = random.sample(sorted(cases), max(1, round(len(cases) * min(scale, 1))))
    for name in chosen:
        port = rig.free_port()
        places = ["--addr", f"127.0.0.1:{port}", "--data-dir", str(directory)]
        command = [sys.executable, "-m", "zapq", *places, *cases[name]]
        ended = subprocess.run(command, capture_output=True, text=True, timeout=60, env=ENVIRON, check=False)
        with socket.socket() as probe:
            bound = probe.connect_ex(("127.0.0.1", port)) == 0
        right = ended.returncode == 2 and ended.stderr.count("\n") == 1 and not ended.stdout and not bound
        report.expect(right, f"{name}: {ended}, bound: {bound}")
        refused += right
    return refused


def _made(directory: Path) -> Path:
    directory.mkdir()
    return directory


async def is_served(url: str, context: ssl.SSLContext) -> bool:
    """Whether a client is answered."""
    try:
        return (await ask(url, "GET", "/health", context=context)).status == 200
    except (trio.BrokenResourceError, h11.RemoteProtocolError, OSError):
        return False


async def speak_plainly(port: int) -> bool:
    """Whether a request without TLS is answered as if there were none."""
    stream = await trio.open_tcp_stream("127.0.0.1", port)
    async with stream:
        await stream.send_all(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
        try:
            return b"HTTP/1.1 200" in await stream.receive_some(4096)
        except trio.BrokenResourceError:
            return False


async def stall(port: int, number: int, server: Server, good: ssl.SSLContext, report: Report) -> dict[str, float]:
    """Begin so many handshakes and leave them, and return what a good client's requests take meanwhile."""
    async with AsyncExitStack() as stack:
        for at in range(number):
            stream = await stack.enter_async_context(await trio.open_tcp_stream("127.0.0.1", port))
            # Some say nothing, some begin a record, some begin to say hello.
            await stream.send_all([b"", b"\x16", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"][at % 3])
        times: list[float] = []
        for _ in range(50):
            begun = trio.current_time()
            report.expect(await is_served(f"https://127.0.0.1:{port}", good), "a good client was not served")
            times.append((trio.current_time() - begun) * 1000)
    times.sort()
    # All of them are cut off, and nothing of them stays.
    with trio.move_on_after(30) as patience:
        while (open_now := server.descriptors()) > 20:
            await trio.sleep(0.1)
    report.expect(not patience.cancelled_caught, f"{open_now} descriptors are still open")
    return {"handshake_p50_ms": round(times[25], 1), "handshake_p99_ms": round(times[-1], 1)}


async def replace(url: str, files: Files, server: Server, reloads: int, report: Report) -> Counter[str]:
    """Replace the certificates again and again under load, and count what was answered."""
    counts: Counter[str] = Counter()
    done = trio.Event()

    async def on_one_connection() -> None:
        async with open_client(url, files.context(files.authority)) as client:
            while not done.is_set():
                counts[str((await client.request("POST", "/enqueue", b"x")).status)] += 1

    async def on_many_connections() -> None:
        context = files.context(files.authority)
        while not done.is_set():
            counts[str((await ask(url, "POST", "/dequeue", context=context)).status)] += 1

    async with trio.open_nursery() as nursery:
        for _ in range(CLIENTS // 2):
            nursery.start_soon(on_one_connection)
            nursery.start_soon(on_many_connections)
        for number in range(1, reloads + 1):
            files.issue()
            os.kill(server.pid, signal.SIGHUP)
            with trio.move_on_after(20) as patience:
                while sum(line["msg"] == "reloaded" for line in server.lines()) < number:
                    await trio.sleep(0.02)
            report.expect(not patience.cancelled_caught, f"reload {number} did not happen")
        done.set()
    wrong = {status: number for status, number in counts.items() if status not in {"200", "202", "204"}}
    report.expect(not wrong, f"not everything was answered: {wrong}")
    return counts


async def run(seed: int, scale: float) -> Report:
    """Attack; the seed chooses which certificates are tried when not all are."""
    report = Report()
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        files = Files(directory)
        bad = _made(directory / "bad")
        report.figures["refused_starts"] = refuse_bad_certificates(bad, files, Random(seed), scale, report)
        flags = ["--tls-cert", str(files.cert), "--tls-key", str(files.key), "--tls-client-ca", str(files.clients)]
        async with running(directory, *flags) as server:
            url = f"https://127.0.0.1:{server.port}"
            good = files.context(files.authority)
            report.expect(await is_served(url, good), "a good client was not served")
            report.expect(
                not await is_served(url, files.context(None)), "a client without a certificate was served"
            )
            stranger = files.context(trustme.CA())
            report.expect(not await is_served(url, stranger), "a client of another authority was served")
            report.expect(not await speak_plainly(server.port), "a request in plain text was answered")
            report.figures["stalled"] = stalled = max(10, round(STALLED * scale))
            report.figures |= await stall(server.port, stalled, server, good, report)
            report.figures["reloads"] = reloads = max(2, round(RELOADS * scale))
            counts = await replace(url, files, server, reloads, report)
            report.figures["answers_while_reloading"] = dict(counts)
            report.expect(await server.stop() == 0, "it did not end in order")
        report.failures += server.complaints()
    return report
