"""The writer writes together what has come in since, and drops what may rest on a commit that failed."""

from __future__ import annotations

from collections.abc import Sequence

from zapq.store.clock import Clock
from zapq.store.port import CommitGroup, Contents
from zapq.store.writer import Writer


class Noted:
    """A store that notes how many commits were written together, and fails when it is told to."""

    untidy = False

    def __init__(self) -> None:
        self.no_room = ""
        self.failing = False
        self.clock = Clock(0.0)
        self.written: list[int] = []

    def load(self, now: float, clock_offset: float) -> Contents:
        raise NotImplementedError

    def commit(self, commits: Sequence[CommitGroup]) -> None:
        self.probe()
        self.written.append(len(commits))

    def probe(self) -> None:
        if self.failing:
            raise OSError("failing")

    def tidy(self, *, idle: bool) -> None:
        """Nothing is to be tidied."""

    def close(self) -> None:
        """Nothing is open."""


def submit(writer: Writer, *generations: int) -> None:
    for generation in generations:
        writer.submit(CommitGroup(generation))


def test_what_has_come_in_since_is_written_together_and_on_a_full_disk_one_by_one() -> None:
    store = Noted()
    writer = Writer(store, list)
    submit(writer, 0, 0, 0)
    writer.step()
    assert store.written == [3]
    store.no_room = "full"
    submit(writer, 0, 0, 0)
    for _ in range(3):
        writer.step()
    assert store.written == [3, 1, 1, 1]


def test_commits_behind_one_that_failed_are_dropped_until_their_owner_knows() -> None:
    store = Noted()
    writer = Writer(store, list)
    store.failing = True
    submit(writer, 0)
    writer.step()
    store.failing = False
    submit(writer, 0, 0, 1)
    writer.step()
    assert store.written == [1]
    assert [(len(each.commits), each.failure) for each in writer.written] == [(1, "failing"), (1, "")]
