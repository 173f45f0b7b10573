"""Images and containers without a daemon: buildah builds them (chroot), runc runs them."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import tomllib
import uuid
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import trio

ROOT = Path(__file__).parents[2]


def done(command: Sequence[str | Path], **options: Any) -> str:
    """Run a command that must succeed, and return what it prints."""
    ended = subprocess.run(command, capture_output=True, text=True, check=False, **options)
    assert ended.returncode == 0, f"{command}:\n{ended.stdout}\n{ended.stderr}"
    printed: str = ended.stdout
    return printed


@dataclass(frozen=True)
class Builder:
    """Buildah, with a store of its own."""

    home: Path

    def __call__(self, *arguments: str | Path) -> str:
        store: list[str | Path] = [
            "--root",
            self.home / "store",
            "--runroot",
            self.home / "run",
            "--storage-driver",
            "vfs",
        ]
        return done(["buildah", *store, *arguments])

    def base(self, tar: Path, pip: Path) -> str:
        """Make an image of a tar, whose pip is set up as `pip` says, and return its name."""
        container = self("from", "scratch").strip()
        self("add", "--quiet", container, tar, "/")
        self("add", "--quiet", container, pip, "/etc/pip.conf")
        self("commit", "--quiet", "--rm", container, "localhost/base")
        return "localhost/base"

    def image(self, base: str, wheels: Path) -> Image:
        """Build zapq's image as the Containerfile says, with packages from `wheels`."""
        # Docker's format: OCI's knows no health check.
        how = [
            "--isolation",
            "chroot",
            "--network",
            "host",
            "--format",
            "docker",
            "--volume",
            f"{wheels}:/wheels:ro",
        ]
        recipe = ROOT / "Containerfile"
        self("build", *how, "--build-arg", f"BASE={base}", "--tag", "localhost/zapq", "--file", recipe, ROOT)
        about = json.loads(self("inspect", "--type", "image", "localhost/zapq"))
        container = self("from", "localhost/zapq").strip()
        return Image(about["Docker"]["config"], Path(self("mount", container).strip()))


@dataclass(frozen=True)
class Image:
    """What a container is made of."""

    config: Mapping[str, Any]
    root: Path
    """Its files."""

    def volume(self, place: Path) -> Path:
        """Make a volume as docker makes one with a name: with what the image has there, and whose."""
        [inside] = self.config["Volumes"]
        done(["cp", "-a", self.root / inside.lstrip("/"), place])
        return place

    def _spec(self, command: Sequence[str], volume: Path, environ: Mapping[str, str]) -> dict[str, Any]:
        user, _, group = self.config["User"].partition(":")
        # What comes later holds.
        variables = [*self.config["Env"], *(f"{name}={text}" for name, text in environ.items())]
        names = {each.partition("=")[0]: each for each in variables}
        [inside] = self.config["Volumes"]
        return {
            "ociVersion": "1.0.2",
            "root": {"path": str(self.root), "readonly": True},
            "process": {
                "user": {"uid": int(user), "gid": int(group)},
                "args": [*command],
                "env": [*names.values()],
                "cwd": "/",
                "noNewPrivileges": True,
                "capabilities": {},
            },
            "mounts": [
                {"destination": "/proc", "type": "proc", "source": "proc"},
                {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755"]},
                {"destination": inside, "type": "bind", "source": str(volume), "options": ["bind", "rw"]},
            ],
            # The host's network, so that a test can call it on loopback.
            "linux": {"namespaces": [{"type": kind} for kind in ("pid", "ipc", "uts", "mount")]},
        }

    @asynccontextmanager
    async def running(
        self, home: Path, *arguments: str, volume: Path, environ: Mapping[str, str]
    ) -> AsyncGenerator[Container, None]:
        """Run the image's entry point for the length of the block; its root is read-only."""
        bundle = home / "bundle"
        bundle.mkdir()
        spec = self._spec([*self.config["Entrypoint"], *arguments], volume, environ)
        (bundle / "config.json").write_text(json.dumps(spec))
        name, state = f"zapq-{uuid.uuid4().hex}", home / "runc"
        runc = ["runc", "--root", str(state)]
        log = home / "log"
        with log.open("wb") as output:
            process = await trio.lowlevel.open_process(
                [*runc, "run", "--bundle", str(bundle), name], stdout=output, stderr=subprocess.STDOUT
            )
        try:
            yield Container(name, runc, log, process)
        finally:
            with trio.CancelScope(shield=True):
                delete = [*runc, "delete", "--force", name]
                await trio.run_process(delete, check=False, capture_stdout=True, capture_stderr=True)
                if process.returncode is None:
                    process.kill()
                await process.wait()
            shutil.rmtree(bundle)


@dataclass(frozen=True)
class Container:
    """One that runs."""

    name: str
    runc: Sequence[str]
    log: Path
    process: trio.Process
    """runc, which ends as the container does."""

    async def execute(self, command: Sequence[str], config: Mapping[str, Any], **environ: str) -> int:
        """Run a command in it, as its user, and return the exit code."""
        variables = [f"--env={each}" for each in [*config["Env"], *(f"{n}={text}" for n, text in environ.items())]]
        ended = await trio.run_process(
            [*self.runc, "exec", f"--user={config['User']}", *variables, self.name, *command],
            check=False,
            capture_stdout=True,
            capture_stderr=True,
        )
        return ended.returncode

    async def stop(self, signal: str) -> int:
        """Send it the signal the image wants, and return its exit code."""
        done([*self.runc, "kill", self.name, signal])
        with trio.fail_after(15):
            return await self.process.wait()


def wheels(place: Path, python: str) -> None:
    """Put zapq's dependencies, and what builds zapq, into a directory, for the Python of Debian."""
    done([python, "-m", "pip", "download", "--quiet", "--only-binary", ":all:", "--dest", place, *_requirements()])


def _requirements() -> list[str]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    return [
        *project["build-system"]["requires"],
        *project["project"]["dependencies"],
        *(each for extra in _extras().split(",") for each in project["project"]["optional-dependencies"][extra]),
    ]


def _extras() -> str:
    """Return the extras that the Containerfile installs."""
    installed: list[str] = re.findall(r'"/src\[([\w,]+)\]"', (ROOT / "Containerfile").read_text())
    [extras] = installed
    return extras
