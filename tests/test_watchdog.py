"""A test that hangs, in whichever way, fails, says where, and leaves nothing behind for the next one."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow  # it starts servers, and the gate runs it

ROOT = Path(__file__).parent.parent
HANGING = """
import time

import pytest
import trio

from tests import watchdog

# Long enough for what pytest does between a test and the next one, also on a busy machine.
watchdog.PATIENCE = 2.0


# Each of them is to be where it hangs by then, also on a busy machine.
@pytest.mark.timeout(1)
async def test_waiting(nursery):
    nursery.start_soon(trio.sleep_forever)
    await trio.Event().wait()


@pytest.mark.timeout(1)
async def test_in_virtual_time(autojump_clock):
    while True:
        await trio.sleep(1000)


@pytest.mark.timeout(1)
async def test_shielded(nursery):
    with trio.CancelScope(shield=True):
        await trio.sleep_forever()


@pytest.mark.timeout(1)
async def test_without_a_checkpoint():
    while True:
        time.sleep(0.01)


@pytest.mark.timeout(1)
def test_without_trio():
    while True:
        time.sleep(0.01)


async def test_after_them_all(nursery):
    await trio.lowlevel.checkpoint()
"""


@pytest.mark.parametrize("workers", [0, 1])
def test_a_test_that_hangs_fails_alone(tmp_path: Path, workers: int) -> None:
    (tmp_path / "test_hanging.py").write_text(HANGING)
    options = ["-p", "tests.watchdog", "-p", "no:randomly", "-p", "no:cacheprovider", "-o", "trio_mode=true"]
    options += ["-n", str(workers)]
    result = subprocess.run(
        [sys.executable, "-m", "pytest", "-W", "error", "-rA", *options, "--rootdir", tmp_path, tmp_path],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 1, result.stdout + result.stderr
    assert "5 failed, 1 passed in " in result.stdout
    assert re.search(r"PASSED .*::test_after_them_all", result.stdout)
    for line in ("await trio.Event().wait()", "await trio.sleep(1000)", "await trio.sleep_forever()"):
        assert f"\n    {line}" in result.stdout
