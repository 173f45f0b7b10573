"""What deploy/compose.yaml names, as processes on loopback: the same commands, with ports of the test."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
from collections.abc import AsyncGenerator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import trio
import yaml

from tests.support.process import ENVIRON, MODULE
from tests.support.waiting import eventually
from zapq.quantities import parse_duration

FILE = Path(__file__).parents[3] / "deploy" / "compose.yaml"
PORTS = {"zapq": 8080, "valkey": 6379}
"""Where programs listen if they are told nothing else: zapq and Valkey."""


def read() -> dict[str, Any]:
    """Return the file."""
    with FILE.open() as file:
        read: dict[str, Any] = yaml.safe_load(file)
    return read


@dataclass(frozen=True)
class Balancing:
    """What haproxy's configuration says."""

    port: int
    servers: Mapping[str, tuple[str, int]]
    """Host and port of each."""
    check: bytes
    """What asks a server whether it is well, as haproxy sends it."""
    every: float
    timeouts: Mapping[str, float]


def balancing(text: str) -> Balancing:
    """Return what a configuration of haproxy says, of which only what ours has is understood."""
    port, every, check = 0, 0.0, b""
    servers, timeouts = {}, {}
    for line in text.splitlines():
        match line.partition("#")[0].split():
            case [] | ["defaults" | "frontend" | "backend" | "default_backend", *_] | ["mode", "http"]:
                pass
            case ["balance", "leastconn"] | ["option", "redispatch"]:
                pass
            case ["timeout", kind, seconds]:
                timeouts[kind] = parse_duration(seconds)
            case ["bind", address]:
                port = int(address.removeprefix(":"))
            case ["option", "httpchk", method, path]:
                check = f"{method} {path} HTTP/1.0\r\n\r\n".encode()
            case ["server", name, address, "check", "inter", seconds]:
                host, _, number = address.partition(":")
                servers[name] = (host, int(number))
                every = parse_duration(seconds)
            case unknown:
                raise AssertionError(f"not understood: {unknown}")
    return Balancing(port, servers, check, every, timeouts)


class Balancer:
    """Forwards each connection to the server that is well and has fewest; to another one if that is gone."""

    def __init__(self, about: Balancing, places: Mapping[str, int]) -> None:
        """`places` has the port of loopback for each host."""
        self._about = about
        self._places = places
        self._open = dict.fromkeys(about.servers, 0)
        self.well: set[str] = set()
        self.port = 0

    async def run(self, *, task_status: trio.TaskStatus[None]) -> None:
        """Forward until cancelled."""
        async with trio.open_nursery() as nursery:
            for name in self._open:
                nursery.start_soon(self._check, name)
            [listener] = await trio.open_tcp_listeners(0, host="127.0.0.1")
            self.port = listener.socket.getsockname()[1]
            task_status.started()
            await trio.serve_listeners(self._serve, [listener])

    async def _check(self, name: str) -> None:
        while True:
            answer = b""
            try:
                with trio.move_on_after(self._about.every):
                    async with await self._connect(name) as stream:
                        await stream.send_all(self._about.check)
                        answer = await stream.receive_some(100)
            except (OSError, trio.BrokenResourceError):
                pass
            if re.match(rb"HTTP/1\.[01] [23]", answer):
                self.well.add(name)
            else:
                self.well.discard(name)
            await trio.sleep(self._about.every)

    async def _connect(self, name: str) -> trio.SocketStream:
        host, _ = self._about.servers[name]
        return await trio.open_tcp_stream("127.0.0.1", self._places[host])

    async def _serve(self, client: trio.SocketStream) -> None:
        async with client:
            for name in sorted(self.well, key=self._open.__getitem__):
                try:
                    server = await self._connect(name)
                except OSError:
                    continue
                self._open[name] += 1
                try:
                    async with server, trio.open_nursery() as nursery:
                        nursery.start_soon(_forward, client, server, nursery.cancel_scope)
                        nursery.start_soon(_forward, server, client, nursery.cancel_scope)
                finally:
                    self._open[name] -= 1
                return
            await client.send_all(b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n")


async def _forward(source: trio.SocketStream, target: trio.SocketStream, scope: trio.CancelScope) -> None:
    try:
        while data := await source.receive_some():
            await target.send_all(data)
    except (trio.BrokenResourceError, trio.ClosedResourceError):
        pass
    scope.cancel()


@dataclass
class Running:
    """One service: a process, started again whenever it ends, as `restart: unless-stopped` has it."""

    name: str
    command: list[str]
    environ: dict[str, str]
    log: Path
    process: trio.Process | None = None
    stopping: bool = False
    codes: list[int] = field(default_factory=list)
    """How it has ended."""

    async def keep(self) -> None:
        """Run it until it is told to stop."""
        pause = 0.1
        while not self.stopping:
            with self.log.open("ab") as output:
                self.process = await trio.lowlevel.open_process(
                    self.command, stdout=output, stderr=subprocess.STDOUT, env=ENVIRON | self.environ
                )
            try:
                self.codes.append(await self.process.wait())
            finally:
                if self.process.returncode is None:
                    self.process.kill()
                    with trio.CancelScope(shield=True):
                        await self.process.wait()
            if not self.stopping:
                await trio.sleep(pause)
                pause *= 2

    async def stop(self, seconds: float) -> int:
        """Stop it in order, and return its exit code; fail if it takes longer than it has before it is killed."""
        self.stopping = True
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        with trio.fail_after(seconds):
            return await self.process.wait()

    def kill(self) -> None:
        """Kill it."""
        assert self.process is not None
        os.kill(self.process.pid, signal.SIGKILL)


class Compose:
    """The services of the file."""

    def __init__(self, directory: Path, valkey: str, places: Mapping[str, int]) -> None:
        """`valkey` is Valkey's program; `places` has a free port of loopback for each host."""
        self.file = read()
        self._directory = directory
        self._valkey = valkey
        self.places = places
        self.running: dict[str, Running] = {}

    def of_kind(self, kind: str) -> list[str]:
        """Return the names of the services that run zapq, or valkey, or haproxy."""
        return [name for name, service in self.file["services"].items() if self._kind(service) == kind]

    @staticmethod
    def _kind(service: Mapping[str, Any]) -> str:
        return "zapq" if "build" in service else re.split("[/:]", service["image"])[0]

    def service(self, name: str) -> dict[str, Any]:
        """Return what the file says of a service."""
        service: dict[str, Any] = self.file["services"][name]
        return service

    def grace(self, name: str) -> float:
        """Return the seconds a service has until it is killed; Compose gives 10."""
        return parse_duration(self.service(name).get("stop_grace_period", "10s"))

    def start(self, name: str, nursery: trio.Nursery) -> None:
        """Run a service in `nursery`."""
        service = self.service(name)
        assert service["restart"] == "unless-stopped"
        place = self._directory / name
        place.mkdir(exist_ok=True)
        if self._kind(service) == "valkey":
            command, environ = self._valkey_command(name, place), {}
        else:
            command = self._zapq(self._entrypoint(service))
            environ = {variable: self._moved(text) for variable, text in service["environment"].items()}
            # Not all addresses, as in a container.
            environ["ZAPQ_ADDR"] = f"127.0.0.1:{self.places[name]}"
        running = self.running[name] = Running(name, command, environ, place / "log")
        nursery.start_soon(running.keep)

    async def is_healthy(self, name: str) -> bool:
        """Ask as Compose does, with the service's own check."""
        kind, *check = self.service(name)["healthcheck"]["test"]
        assert kind == "CMD"
        own = [each.replace(f"127.0.0.1:{PORTS['zapq']}", f"127.0.0.1:{self.places[name]}") for each in check]
        done = await trio.run_process(
            self._zapq(own), check=False, capture_stdout=True, capture_stderr=True, env=ENVIRON
        )
        return done.returncode == 0

    def _valkey_command(self, name: str, place: Path) -> list[str]:
        program, *options = shlex.split(self.service(name)["command"])
        assert program == "valkey-server"
        if "--replicaof" in options:
            at = options.index("--replicaof") + 1
            assert int(options[at + 1]) == PORTS["valkey"]
            options[at : at + 2] = ["127.0.0.1", str(self.places[options[at]])]
        own = ["--port", str(self.places[name]), "--bind", "127.0.0.1", "--dir", str(place)]
        return [self._valkey, *options, *own]

    @staticmethod
    def _entrypoint(service: Mapping[str, Any]) -> list[str]:
        recipe = FILE.parent / service["build"]["context"] / service["build"]["dockerfile"]
        [line] = re.findall(r"^ENTRYPOINT (.*)$", recipe.read_text(), re.MULTILINE)
        entrypoint: list[str] = yaml.safe_load(line)
        return entrypoint

    @staticmethod
    def _zapq(command: list[str]) -> list[str]:
        assert command[0] == "zapq"
        return [*MODULE, *command[1:]]

    def _moved(self, text: str) -> str:
        """Return an engine's URL with the places of its servers; anything else as it is."""
        scheme, found, hosts = text.partition("://")
        if not found:
            return text
        places = [f"127.0.0.1:{self.places[host]}" for host in hosts.split(",")]
        return f"{scheme}://{','.join(places)}"


@asynccontextmanager
async def composed(
    directory: Path, valkey: str, ports: list[int]
) -> AsyncGenerator[tuple[Compose, Balancer], None]:
    """Run all services for the length of the block, and yield once the balancer finds every front end well."""
    names = list(read()["services"])
    compose = Compose(directory, valkey, dict(zip(names, ports, strict=True)))
    [source] = compose.service("balancer")["configs"]
    about = balancing(compose.file["configs"][source["source"]]["content"])
    balancer = Balancer(about, compose.places)
    async with AsyncExitStack() as stack:
        nursery = await stack.enter_async_context(trio.open_nursery())
        stack.callback(nursery.cancel_scope.cancel)
        for name in [*compose.of_kind("valkey"), *compose.of_kind("zapq")]:
            compose.start(name, nursery)
        await nursery.start(balancer.run)
        await eventually(lambda: balancer.well == set(about.servers), "all front ends to be well")
        yield compose, balancer
