"""Files that were altered or cut: refused, or what some commit left, and never silently less than all.

One thing nobody can see, and it is counted here: a log that had grown beyond the length it is made with, and was
cut exactly between two commits behind that.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.durable.history import WAL, History, View, copy, opened
from zapq.core.records import Put, row_of
from zapq.errors import CannotStart
from zapq.store.port import CommitGroup
from zapq.store.schema import FILE
from zapq.store.wal import FULL, PAGE, Frame, read_log

pytestmark = pytest.mark.slow  # it starts servers, and the gate runs it

FRAME = PAGE + 24
PAGES = 20
"""From the end of each file."""
IN_PAGE = (0, 3, 4, 6, 8, 9, 50, 2000, 3800, 4000, 4095)
"""Page header, cell pointers, and cells, of which new ones are written at the end."""
IN_FRAME = (0, 3, 4, 7, 8, 11, 12, 15, 16, 19, 20, 23)
"""Page number, size after a commit, two salts, two checksums."""


class Case(NamedTuple):
    """Something done to a file: one byte altered by `flip`, or, if that is 0, everything from `at` cut off."""

    name: str
    at: int
    flip: int


class Crash(NamedTuple):
    """A directory as a crash leaves it, or a stop, and what was in it after each commit."""

    directory: Path
    views: list[View]


def build(directory: Path, *, commits: int, seed: int = 1) -> tuple[Crash, Crash]:
    """Make a database in two runs, and return copies of what a kill leaves of it, and a stop."""
    live, history = directory / "live", History(seed)
    live.mkdir()
    with opened(live) as (database, _, _):
        database.prepare()
        for _ in range(150):
            history.commit(database)
            database.tidy(idle=False)
    with opened(live) as (database, found, _):
        assert found == history.views[-1]
        database.prepare()
        for _ in range(commits):
            history.commit(database)
        killed = copy(live, directory / "killed")
    stopped = copy(live, directory / "stopped")
    assert not (stopped / WAL).exists()
    return Crash(killed, history.views), Crash(stopped, history.views)


@pytest.fixture(scope="module")
def crashes(tmp_path_factory: pytest.TempPathFactory) -> tuple[Crash, Crash]:
    return build(tmp_path_factory.mktemp("crashes"), commits=15)


def live_frames(crash: Crash) -> list[Frame]:
    with open(crash.directory / WAL, "rb") as file:
        return [frame for frame in read_log(file).frames if frame.ours]


def altered_pages(crash: Crash, everywhere: bool) -> Iterator[Case]:
    data = (crash.directory / FILE).read_bytes()
    # The pages behind are free: they were the log's while it was made.
    used = [page for page in range(0, len(data), PAGE) if data[page : page + PAGE].count(0) < PAGE - 100]
    yield from (Case(FILE, at, 0x80 >> at % 8) for at in range(100))
    for page in used if everywhere else [*used[:3], *used[-PAGES:]]:
        for at in range(0, PAGE, 61) if everywhere else IN_PAGE:
            yield Case(FILE, page + at, 1 << (page // PAGE + at) % 8)


def altered_log(crash: Crash, everywhere: bool) -> Iterator[Case]:
    frames = live_frames(crash)
    yield from (Case(WAL, at, flip) for at in range(32) for flip in (1, 0xFF))
    for frame in frames if everywhere else frames[-PAGES:]:
        yield from (Case(WAL, frame.offset + at, 1) for at in IN_FRAME)
        # A commit mark that disappears, a page that becomes one.
        yield from (Case(WAL, frame.offset + 24 + at, 0x10) for at in IN_PAGE[::3])


def cut_pages(crash: Crash, everywhere: bool) -> Iterator[Case]:
    size = (crash.directory / FILE).stat().st_size
    for at in range(PAGE, size, PAGE):
        if everywhere or at <= 2 * PAGES * PAGE or at >= size - 3 * PAGE:
            yield from (Case(FILE, at + odd, 0) for odd in (0, 513))
    yield from (Case(FILE, at, 0) for at in (0, 1, 16, 99, 100, size - 1))


def cut_log(crash: Crash, everywhere: bool) -> Iterator[Case]:
    frames = live_frames(crash)
    end = frames[-1].offset + FRAME
    size = (crash.directory / WAL).stat().st_size
    yield from (Case(WAL, at, 0) for at in (0, 1, 16, 31, 32, 33, size - 1, size - FRAME, size - PAGE))
    first = 32 if everywhere else frames[-PAGES].offset
    for at in [*range(first, end + 1, FRAME), *range(first // PAGE * PAGE, end + PAGE, PAGE)]:
        yield from (Case(WAL, at + odd, 0) for odd in (-1, 0, 1, 24, 513) if 0 <= at + odd < size)


def try_all(crash: Crash, cases: Iterable[Case], tmp_path: Path) -> Counter[str]:
    """Do each to a copy, and count what became of it; whatever must not be is listed."""
    results: Counter[str] = Counter()
    wrong: list[str] = []
    for number, case in enumerate(cases):
        directory = copy(crash.directory, tmp_path / str(number))
        before = (directory / case.name).read_bytes()
        with open(directory / case.name, "r+b") as file:
            if case.flip:
                file.seek(case.at)
                file.write(bytes([before[case.at] ^ case.flip]))
            else:
                file.truncate(case.at)
        result = outcome(directory, crash.views)
        if result == "less, silently":
            boundary = {frame.offset + FRAME for frame in live_frames(crash) if frame.commits}
            if case.flip or case.name != WAL or case.at < FULL or case.at not in boundary:
                wrong.append(f"{case}: {result}")
        elif result not in {"refused", "all", "all, with a warning", "less, with a warning"}:
            wrong.append(f"{case}: {result}")
        results[result] += 1
        for path in directory.iterdir():
            path.unlink()
        directory.rmdir()
    assert not wrong, "\n".join(wrong)
    print(dict(results))  # with -s or -rP: how many of each
    return results


def outcome(directory: Path, views: list[View]) -> str:
    try:
        with opened(directory) as (_, found, warning):
            if found not in views:
                return f"something that never was, warning {warning!r}"
            return ("all" if found == views[-1] else "less") + (
                ", with a warning" if warning else "" if found == views[-1] else ", silently"
            )
    except CannotStart as error:
        return "refused" if str(error) else "refused without a reason"
    except Exception as error:
        return f"{type(error).__name__}: {error}"


Some = Callable[[Iterable[Case]], Iterator[Case]]
"""Chooses the cases to try."""


@pytest.fixture
def everywhere(nightly: bool) -> bool:
    """Whether to look at every page."""
    return nightly


@pytest.fixture
def step(gate: bool, everywhere: bool) -> int:
    """Each how many-th case is tried; a prime, so that no place in a page or frame is never among them."""
    return 1 if everywhere else 3 if gate else 7


@pytest.fixture
def some(step: int) -> Some:
    """Choose the cases to try."""
    return lambda cases: islice(cases, 0, None, step)


def test_what_was_not_touched_is_all_there(crashes: tuple[Crash, Crash], tmp_path: Path) -> None:
    for crash in crashes:
        assert outcome(copy(crash.directory, tmp_path / crash.directory.name), crash.views) == "all"


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("which", [0, 1], ids=["killed", "stopped"])
def test_an_altered_file(
    crashes: tuple[Crash, Crash], which: int, everywhere: bool, step: int, some: Some, tmp_path: Path
) -> None:
    results = try_all(crashes[which], some(altered_pages(crashes[which], everywhere)), tmp_path)
    assert results["refused"] > 100 // step
    assert not results["less, with a warning"]


@pytest.mark.timeout(3600)
def test_an_altered_log(
    crashes: tuple[Crash, Crash], everywhere: bool, step: int, some: Some, tmp_path: Path
) -> None:
    results = try_all(crashes[0], some(altered_log(crashes[0], everywhere)), tmp_path)
    assert results["refused"] > 100 // step
    assert results["less, with a warning"]


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("which", [0, 1], ids=["killed", "stopped"])
def test_a_file_that_was_cut(
    crashes: tuple[Crash, Crash], which: int, everywhere: bool, step: int, some: Some, tmp_path: Path
) -> None:
    results = try_all(crashes[which], some(cut_pages(crashes[which], everywhere)), tmp_path)
    assert results["refused"] > 5 // step
    assert not results["less, with a warning"]


@pytest.mark.timeout(3600)
def test_a_log_that_was_cut(
    crashes: tuple[Crash, Crash], everywhere: bool, step: int, some: Some, tmp_path: Path
) -> None:
    results = try_all(crashes[0], some(cut_log(crashes[0], everywhere)), tmp_path)
    assert results["less, with a warning"] > 50 // step
    assert not results["less, silently"]


def test_a_log_that_is_missing(crashes: tuple[Crash, Crash], tmp_path: Path) -> None:
    directory = copy(crashes[0].directory, tmp_path / "copy")
    (directory / WAL).unlink()
    assert outcome(directory, crashes[0].views) == "less, with a warning"


@pytest.mark.slow
def test_a_log_that_was_longer_than_it_is_made(tmp_path: Path) -> None:
    live, history = tmp_path / "live", History(2)
    live.mkdir()
    with opened(live) as (database, _, _):
        database.prepare()
        history.commit(database)
        history.commit(database, history.enqueue(*[60_000] * 70))
        for _ in range(4):
            history.commit(database)
        killed = Crash(copy(live, tmp_path / "killed"), history.views)
    frames = live_frames(killed)
    ends = [frame.offset + FRAME for frame in frames if frame.offset >= FULL]
    cuts = [Case(WAL, end + odd, 0) for end in ends[-12:-1] for odd in (0, 100)]
    results = try_all(killed, cuts, tmp_path)
    assert results["less, with a warning"] > 10
    # The size of it, so that this does not become more.
    assert results["less, silently"] == sum(frame.commits for frame in frames[-12:-1]) > 0


def test_what_is_left_of_commits_that_failed_is_no_damage(tmp_path: Path) -> None:
    live, history = tmp_path / "live", History(3)
    live.mkdir()
    with opened(live) as (database, _, _):
        database.prepare()
        for _ in range(5):
            history.commit(database)
        before = copy(live, tmp_path / "before")
        # Three that begin at the same place of the log, the first two of which the disk did not take.
        logs = [log_after(before, tmp_path / str(size), size) for size in (90_000, 40_000)]
        history.commit(database, history.enqueue(10))
        killed = copy(live, tmp_path / "killed")
    log = bytearray((killed / WAL).read_bytes())
    end = live_frames(Crash(killed, []))[-1].offset + FRAME
    for data, used in reversed(logs):
        log[end:used] = data[end:used]
        end = max(end, used)
    (killed / WAL).write_bytes(log)
    assert outcome(killed, history.views) == "all, with a warning"


def log_after(before: Path, directory: Path, size: int) -> tuple[bytes, int]:
    """The log in `before` after one more commit, and where that ends."""
    with opened(copy(before, directory)) as (database, _, _):
        database.commit([batch_of(size)])
        killed = copy(directory, directory.with_name(f"{directory.name} killed"))
    return (killed / WAL).read_bytes(), live_frames(Crash(killed, []))[-1].offset + FRAME


def batch_of(size: int) -> CommitGroup:
    commit = CommitGroup()
    commit.records.append(Put(row_of(1, 10**6), bytes(size)))
    return commit


@pytest.mark.parametrize("torn", [False, True])
def test_a_log_that_was_begun_anew_and_has_no_commit_yet_is_no_damage(tmp_path: Path, torn: bool) -> None:
    live, history = tmp_path / "live", History(4)
    live.mkdir()
    with opened(live) as (database, _, _):
        for _ in range(5):
            history.commit(database)
        database.prepare()
        emptied = copy(live, tmp_path / "emptied")
        views = list(history.views)
        history.commit(database, history.enqueue(*[3000] * 10))
        header = bytearray((live / WAL).read_bytes())[: 32 + (FRAME - 100) * torn]
    # Its new header is there, and of the commit no frame that is whole; behind it are old ones.
    with open(emptied / WAL, "r+b") as file:
        file.write(header)
    assert outcome(emptied, views) == "all" + ", with a warning" * torn


def test_a_frame_that_was_never_written_before_one_that_was(tmp_path: Path) -> None:
    """What lies where it should be is an old one, with the mark of a commit: a disk writes in any order."""
    live, history = tmp_path / "live", History(5)
    live.mkdir()
    with opened(live) as (database, _, _):
        database.prepare()
        history.commit(database)
        old = copy(live, tmp_path / "old")
        database.prepare()
        views = list(history.views)
        for _ in range(3):
            history.commit(database, history.enqueue(1))
            views = list(history.views)
        done = len(live_frames(Crash(copy(live, tmp_path / "done"), [])))
        history.commit(database, history.enqueue(*[3000] * 10))
        killed = copy(live, tmp_path / "killed")
    stale = (old / WAL).read_bytes()
    commit = next(at for at in range(32, len(stale), FRAME) if stale[at + 4 : at + 8] != bytes(4))
    at = live_frames(Crash(killed, []))[done].offset
    with open(killed / WAL, "r+b") as file:
        file.seek(at)
        file.write(stale[commit : commit + FRAME])
    assert outcome(killed, views) == "all, with a warning"
