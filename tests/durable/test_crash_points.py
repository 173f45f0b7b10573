"""Killed at a sample of the calls that change its files; `scripts/bench crash --points` tries many more."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.durable.points import Point, make, possible

pytestmark = pytest.mark.slow  # it starts servers, and the gate runs it

SAMPLE = {
    "pwrite64": (2, 40, 700, 2000),
    "fdatasync": (2, 9, 24),
    "fsync": (1, 2),
    "rename,renameat,renameat2": (1,),
    "unlink,unlinkat": (1,),
}
FRESH = {
    "pwrite64": (1, 5),
    "fdatasync": (1, 3),
    "fsync": (1,),
    "rename,renameat,renameat2": (1,),
    "unlink,unlinkat": (2,),
    "ftruncate": (1,),
}
POINTS = [Point(calls, number) for calls, numbers in SAMPLE.items() for number in numbers]
POINTS += [Point(calls, number, fresh=True) for calls, numbers in FRESH.items() for number in numbers]

ALWAYS = {"pwrite64-40", "fdatasync-9", "rename-1", "pwrite64-5-fresh"}
"""The others are slow."""


def name(point: Point) -> str:
    return f"{point.calls.partition(',')[0]}-{point.number}{'-fresh' * point.fresh}"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(tmp_path_factory.mktemp("made"))


@pytest.mark.skipif(not possible(), reason="strace is not allowed to trace here")
@pytest.mark.parametrize(
    "point",
    [
        pytest.param(point, id=name(point), marks=[] if name(point) in ALWAYS else [pytest.mark.slow])
        for point in POINTS
    ],
)
def test_a_process_killed_there_loses_nothing(tmp_path: Path, made: Path, point: Point) -> None:
    point.run(tmp_path, made)
