"""Clients of SQS as others have released them, each against a zapq process of its own."""

from __future__ import annotations

import subprocess
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

import trio

from tests.support.process import ENVIRON, Zapq, running_zapq

ROOT = Path(__file__).parents[2]
PROGRAMS = Path(__file__).parent / "programs"
ACCOUNT = "123456789012"
"""Whose queues they are: moto's tests compare it."""
SECONDS = 300
"""How long a judge may take: far more than it does."""
_OURS = ("AWS_", "COVERAGE_", "MOTO_", "PYTEST_", "PYTHON", "VIRTUAL_ENV")


@dataclass(frozen=True)
class Verdict:
    """What a judge's own tests came to, by their names."""

    passed: frozenset[str]
    failed: frozenset[str]
    skipped: frozenset[str]
    output: str

    def differs(self, left_out: Mapping[str, str]) -> str:
        """Return which tests failed that are not left out, and which passed that are; empty if there are none."""
        new, mended = self.failed - left_out.keys(), self.passed & left_out.keys()
        if not new and not mended:
            return ""
        return f"failed: {sorted(new)}; left out, and passed: {sorted(mended)}\n{self.output}"


@dataclass(frozen=True)
class Judges:
    """Where scripts/judges has put them."""

    home: Path

    @property
    def bin(self) -> Path:
        """The programs."""
        return self.home / "bin"

    def source(self, name: str) -> Path:
        """Return the unpacked release of this name."""
        [found] = [each for each in (self.home / "sources").glob(f"{name}-*") if each.is_dir()]
        return found

    def environ(self, zapq: Zapq, environ: Mapping[str, str]) -> dict[str, str]:
        """Return what a judge finds in its environment: credentials, a region, and where SQS is."""
        kept = {name: text for name, text in ENVIRON.items() if not name.startswith(_OURS)}
        return {
            **kept,
            "AWS_ACCESS_KEY_ID": "any",
            "AWS_SECRET_ACCESS_KEY": "any",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_REGION": "us-east-1",
            "AWS_ENDPOINT_URL_SQS": zapq.url,
            "AWS_CONFIG_FILE": str(self.home / "no-config"),
            "AWS_SHARED_CREDENTIALS_FILE": str(self.home / "no-credentials"),
            "AWS_EC2_METADATA_DISABLED": "true",
            # What fails is to be seen, and not tried again.
            "AWS_MAX_ATTEMPTS": "1",
            "PATH": f"{self.bin}:{kept['PATH']}",
            **environ,
        }

    async def run(
        self, zapq: Zapq, *command: str | Path, cwd: Path | None = None, environ: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run a command to its end, and return what it printed, errors included."""
        with trio.fail_after(SECONDS):
            ended = await trio.run_process(
                [str(each) for each in command],
                capture_stdout=True,
                stderr=subprocess.STDOUT,
                check=False,
                cwd=cwd,
                env=self.environ(zapq, environ or {}),
            )
        return subprocess.CompletedProcess(ended.args, ended.returncode, ended.stdout.decode(errors="replace"))

    async def program(self, zapq: Zapq, name: str, *arguments: str) -> str:
        """Run one of our programs for a judge, which must end well, and return what it printed."""
        ended = await self.run(zapq, "python", PROGRAMS / name, *arguments)
        assert ended.returncode == 0, ended.stdout
        return ended.stdout

    async def tests(
        self, zapq: Zapq, directory: Path, report: Path, *arguments: str, environ: Mapping[str, str]
    ) -> Verdict:
        """Run tests of a judge in `directory`; `report` is where pytest may write."""
        quiet = ("-q", "-p", "no:cacheprovider", "-p", "no:zapq", "--color=no", "--tb=short")
        command = ("python", "-m", "pytest", *quiet, f"--junitxml={report}", *arguments)
        ended = await self.run(zapq, *command, cwd=directory, environ=environ)
        assert report.exists(), ended.stdout
        every, failed, skipped = set(), set(), set()
        for case in ElementTree.parse(report).iter("testcase"):
            name, found = case.attrib["name"], {each.tag for each in case}
            every.add(name)
            # One that was tried again is there once for each time, and only the last says how it ended.
            if found & {"failure", "error"}:
                failed.add(name)
            elif "skipped" in found:
                skipped.add(name)
        passed = every - failed - skipped
        return Verdict(frozenset(passed), frozenset(failed), frozenset(skipped), ended.stdout[-20_000:])


@asynccontextmanager
async def judged(directory: Path, *flags: str) -> AsyncGenerator[Zapq, None]:
    """Run the zapq that a judge is to talk to."""
    async with running_zapq(directory, "--sqs-account", ACCOUNT, "--max-message-bytes", "1M", *flags) as zapq:
        yield zapq
