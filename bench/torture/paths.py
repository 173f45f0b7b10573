"""Can a snapshot's name reach out of the data directory?

10,000 generated names go to `/persist` and `/load`: ways up and absolute ones, encoded once, twice and wrongly,
NULs and other controls, look-alikes of dots and slashes, names too long, and harmless ones. Some name what was
laid out for them in the data directory: links, hard links, FIFOs, sockets, devices and directories. The server
runs under strace, and every file it names to the kernel must be a plain name relative to the data directory.
Names that are not plain get 400, what is no plain file 500, what is not there 404, and next to the directory
nothing is read, written or made.
"""

from __future__ import annotations

import os
import re
import socket
import stat
import tempfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from urllib.parse import quote, unquote_to_bytes

from bench.torture.report import Report
from bench.torture.server import Server, running
from tests.support.wire import Client, open_client

NAMES = 10_000
PLAIN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}\.(json|msgpack)", re.ASCII)
"""What a name may be; a mistake in the server's own pattern would go unnoticed if this were that."""
LONGEST = 128
SECRET = b'["c2VjcmV0"]'
STRACE = ("strace", "-f", "-y", "--seccomp-bpf", "-s", "4096", "-e", "trace=%file", "-e", "signal=none")
CALL = re.compile(r"^(?:\[pid +\d+\] |\d+ +)?(\w+)\((.*)$")
AT = re.compile(r'(?:(AT_FDCWD|\d+)(?:<((?:[^>\\]|\\.)*)>)?, )?(?:"((?:[^"\\]|\\.)*)"|NULL)')

# fmt: off
PIECES = [
    "..", ".", "/", "//", "\\", "../", "..\\", "....//", "/etc/passwd", "/proc/self/environ", "/dev/null",
    "~", "~root", "a", "x.json", ".json", ".msgpack", "outside/secret.json", "../outside/secret.json",
    "file://", "C:", "|id", "$(id)", "`id`", ";", "\0", "\n", "\r\n", "\t", " ", "\x1b[31m", "\x7f",
    "\u2024\u2024/", "\uff0e\uff0e\uff0f", "\u2215", "\u202e", "\u0430", "\u0130", "\u017f", "\u212a",
    "e\u0301", "\u00e9", "%2e%2e%2f", "%2e", "%2f", "%5c", "%00", "%252e", "%c0%ae%c0%ae%c0%af", "CON",
    "nul.json", "zapq.db", "zapq.db-wal", "-rf", "--", "*", "?", "#", "&file=b.json", ";file=b.json", "+",
    "x" * 123, "x" * 250, "x" * 300,
]
# fmt: on
ENDINGS = ["", ".json", ".json", ".json", ".msgpack", ".msgpack", ".JSON", ".json\n", ".json/", ".json\0", ".tmp"]


def lay_out(outside: Path) -> dict[str, Callable[[Path], object]]:
    """Return what may be in a data directory that should not: the name, and how it is made."""
    secret = outside / "secret.json"
    return {
        "link.json": lambda path: path.symlink_to(secret),
        "relative.json": lambda path: path.symlink_to("../outside/secret.json"),
        "dangling.json": lambda path: path.symlink_to(outside / "made.json"),
        "circle.json": lambda path: path.symlink_to("circle.json"),
        "updir.json": lambda path: path.symlink_to(outside),
        "hard.json": lambda path: path.hardlink_to(secret),
        "hard.msgpack": lambda path: path.hardlink_to(secret),
        "fifo.json": os.mkfifo,
        "socket.json": _make_socket,
        "zero.json": lambda path: _make_device(path, 1, 5),
        "full.msgpack": lambda path: _make_device(path, 1, 7),
        "directory.json": lambda path: path.mkdir(),
        "through": lambda path: path.symlink_to(outside),
    }


def _make_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(path))


def _make_device(path: Path, major: int, minor: int) -> None:
    try:
        os.mknod(path, stat.S_IFCHR | 0o600, os.makedev(major, minor))
    except PermissionError:
        path.symlink_to("/dev/zero")  # as near as one comes without being root


def name_of(random: Random, traps: list[str]) -> bytes:
    """Return a name as it is to stand in the query."""
    match random.choice(["trap", "through", "pieces", "pieces", "pieces", "plain", "long"]):
        case "trap":
            return random.choice(traps).encode()
        case "through":
            name = random.choice([
                "through/secret.json",
                "updir.json/secret.json",
                "./link.json",
                "fifo.json/x.json",
            ])
        case "plain":
            name = f"saved-{random.randrange(20)}" + random.choice([".json", ".msgpack"])
        case "long":
            name = "n" * random.choice([100, LONGEST - 1, LONGEST, LONGEST + 1, 255, 256, 1000]) + random.choice(
                ENDINGS
            )
        case _:
            name = "".join(random.choice(PIECES) for _ in range(random.randint(1, 5))) + random.choice(ENDINGS)
    match random.choice(["once", "once", "once", "all", "twice", "overlong"]):
        case "once":
            return quote(name, safe="").encode()
        case "all":
            return "".join(f"%{byte:02x}" for byte in name.encode()).encode()
        case "twice":
            return quote(quote(name, safe=""), safe="").encode()
        case _:
            return quote(name, safe="%").replace("/", "%c0%af").encode()


def expected(verb: str, name: bytes, traps: dict[str, Callable[[Path], object]]) -> set[int]:
    """Return the statuses the contract allows for this name."""
    if len(name) > 1900:
        return {400, 414}
    text = unquote_to_bytes(name.replace(b"+", b" ")).decode("utf-8", "replace")
    if b"&" in name or not PLAIN.fullmatch(text) or len(text) > LONGEST:
        return {400}
    if verb == "load":
        return {500} if text in traps else {200, 404, 500}
    # What is laid out is replaced, not followed: but a directory cannot be.
    return {500} if text == "directory.json" else {200}


def outside_calls(line: str, data: Path) -> list[str]:
    """Return the files this line of strace names that are not plain names in `data`."""
    call = CALL.match(line)
    if call is None or call[1] in {"execve", "resumed"}:
        return []
    arguments = call[2].rpartition(") = ")[0] or call[2]
    found = []
    for _, directory, path in AT.findall(arguments):
        inside = directory == str(data) and "/" not in path and path not in {"", ".."}
        if path and not inside:
            found.append(f"{call[1]}({directory!r}, {path!r})")
    return found


@dataclass
class Names:
    """All the names of one run, and what became of them."""

    server: Server
    place: Path
    report: Report
    traps: dict[str, Callable[[Path], object]]
    statuses: Counter[str] = field(default_factory=Counter)

    def set_traps(self) -> None:
        """Lay out what is not there any more."""
        for name, make in self.traps.items():
            path = self.place / "data" / name
            if path.is_symlink() or path.exists():
                mode = path.lstat()
                if not stat.S_ISREG(mode.st_mode) or mode.st_nlink > 1:
                    continue
                path.unlink()
            make(path)

    async def send(self, random: Random, number: int) -> None:
        """Send so many names."""
        sent = 0
        while sent < number:
            async with open_client(self.server.url) as client:
                going_on = True
                while going_on and sent < number:
                    sent += 1
                    going_on = await self._send_one(random, client)

    async def _send_one(self, random: Random, client: Client) -> bool:
        """Send one, and return whether the connection goes on."""
        self.set_traps()
        verb = random.choice(["persist", "load"])
        name = name_of(random, list(self.traps))
        target = f"/{verb}?file={name.decode()}"
        allowed = expected(verb, name, self.traps)
        answer = await client.request("POST", target)
        self.statuses[f"{verb} {answer.status}"] += 1
        self.report.expect(answer.status in allowed, f"{target}: {answer.status}, not {allowed}")
        return answer.headers.get("connection") != "close"


def picture(outside: Path) -> dict[str, tuple[object, ...]]:
    """Return what there is next to the data directory, and what is in it."""
    return {
        str(path): (path.lstat().st_mode, path.lstat().st_mtime_ns, path.read_bytes() if path.is_file() else b"")
        for path in [outside, *outside.rglob("*")]
    }


def _without_links(path: str) -> Path:
    """Return `path` as strace will show it."""
    return Path(os.path.realpath(path))


async def run(seed: int, scale: float) -> Report:
    """Send all names, and read what the server told the kernel."""
    report = Report()
    number = int(NAMES * scale)
    with tempfile.TemporaryDirectory() as directory:
        place = _without_links(directory)
        outside, trace = place / "outside", place / "trace"
        outside.mkdir()
        (outside / "secret.json").write_bytes(SECRET)
        flags = ("--max-msgs", "100")
        async with running(place, *flags, wrapper=(*STRACE, "-o", str(trace))) as server:
            names = Names(server, place, report, lay_out(outside))
            for target in ("/enqueue", "/persist?file=first.json", "/persist?file=first.msgpack"):
                assert (await server.ask("POST", target, b"")).status in {200, 202}
            for target in (
                "/load?file=first.json",
                "/load?file=first.msgpack",
                "/load?file=none.json",
                "/load?file=/",
            ):
                assert (await server.ask("POST", target)).status in {200, 400, 404, 500}
            names.set_traps()
            before = picture(outside)
            begun = trace.stat().st_size
            await names.send(Random(seed), number)
            ended = trace.stat().st_size
            metrics = await server.metrics()
            report.expect(metrics["connection_errors"] == 0, f"connection_errors: {metrics['connection_errors']}")
            tracebacks = [line for line in server.complaints() if "Traceback" in line or "request failed" in line]
            report.expect(not tracebacks, f"logged: {tracebacks[:3]}")
            assert (await server.stop()) == 0
        with trace.open("rb") as file:
            file.seek(begun)
            lines = file.read(ended - begun).decode(errors="replace").splitlines()
        written = sum(names.statuses[f"{verb} 200"] for verb in ("persist", "load"))
        report.expect(len(lines) > written, f"{written} files written or read, but only {len(lines)} calls seen")
        strays = Counter(stray for line in lines for stray in outside_calls(line, place / "data"))
        for stray, times in strays.most_common(10):
            report.failures.append(f"{times} times outside the data directory: {stray}")
        after = picture(outside)
        report.expect(after == before, f"next to the data directory: {before} became {after}")
        others = {path.name for path in place.iterdir()} - {"outside", "data", "log", "trace"}
        report.expect(not others, f"made next to the data directory: {others}")
        temporary = [path.name for path in (place / "data").iterdir() if path.name.startswith(".")]
        report.expect(not temporary, f"left over: {temporary}")
    report.figures |= {
        "names": number,
        "statuses": dict(sorted(names.statuses.items())),
        "calls_traced": len(lines),
        "outside": sum(strays.values()),
    }
    return report
