"""A small run of `python -m bench.torture paths`, and whether it would notice."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from bench.torture import paths as scenario

DATA = Path("/x/data")


@pytest.mark.skipif(shutil.which("strace") is None, reason="needs strace")
@pytest.mark.slow
async def test_no_name_reaches_out_of_the_data_directory() -> None:
    assert (await scenario.run(seed=1, scale=0.01)).failures == []


@pytest.mark.parametrize(
    "line",
    [
        '17 openat(AT_FDCWD</x>, "a.json", O_RDONLY) = 3</x/a.json>',
        '17 openat(AT_FDCWD</x>, "/etc/passwd", O_RDONLY|O_CLOEXEC) = 3</etc/passwd>',
        '17 openat(7</x/data>, "../outside/secret.json", O_RDONLY) = -1 ENOENT (No such file or directory)',
        '17 openat(7</x/data>, "..", O_RDONLY|O_DIRECTORY) = 3</x>',
        '17 openat(8</x/outside>, "secret.json", O_RDONLY <unfinished ...>',
        '17 renameat(7</x/data>, ".a.tmp", 8</x/outside>, "a.json") = 0',
        '17 unlink("/x/data/a.json")   = 0',
    ],
)
def test_a_call_that_names_something_else_is_noticed(line: str) -> None:
    assert len(scenario.outside_calls(line, DATA)) == 1


@pytest.mark.parametrize(
    "line",
    [
        '17 openat(7</x/data>, "a.json", O_RDONLY|O_NOFOLLOW) = 3</x/data/a.json>',
        '17 renameat(7</x/data>, ".a.json.17.tmp", 7</x/data>, "a.json") = 0',
        '17 newfstatat(3</x/data/a.json>, "", {st_mode=S_IFREG|0600, ...}, AT_EMPTY_PATH) = 0',
        '17 openat(7</x/data>, ".", O_RDONLY|O_DIRECTORY) = 3</x/data>',
        "17 <... openat resumed>)             = 3</x/data/a.json>",
        "17 +++ exited with 0 +++",
    ],
)
def test_a_call_within_it_is_none_of_those(line: str) -> None:
    assert scenario.outside_calls(line, DATA) == []
