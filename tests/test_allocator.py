"""Freed memory goes back to the system."""

from __future__ import annotations

import subprocess
import sys

import pytest

SCRIPT = """
import os
from pathlib import Path
from zapq.allocator import give_back_large_blocks

MIB = 1024 * 1024

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

give_back_large_blocks()
bytearray(16 * MIB)  # from here on the C library would keep what is smaller
before = resident()
large, small = [], []
for _ in range(20):
    large.append(bytes([1]) * 4 * MIB)
    small.append(bytes([1]) * 10_000)
assert resident() > before + 60 * MIB
large.clear()
print((resident() - before) / MIB)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_large_blocks_between_small_ones_are_given_back() -> None:
    ended = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True)
    assert float(ended.stdout) < 8
