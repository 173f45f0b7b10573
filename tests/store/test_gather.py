"""What many records together write: what comes last counts, and what came and went is not written."""

from __future__ import annotations

import pytest

from zapq.core.message import Properties
from zapq.core.records import MessagesDeleted, MessageState, Put, Record
from zapq.store.gather import gather
from zapq.store.port import CommitGroup

PUT, GONE, STATE = Put(7, b"a"), MessagesDeleted((7,)), MessageState(7, Properties(receives=1))


@pytest.mark.parametrize(
    ("records", "puts", "states", "gone"),
    [
        pytest.param([PUT], 1, 0, [], id="comes"),
        pytest.param([PUT, STATE], 1, 1, [], id="is leased"),
        pytest.param([GONE], 0, 0, [7], id="goes"),
        pytest.param([STATE, GONE], 0, 0, [7], id="is leased and goes"),
        pytest.param([PUT, STATE, GONE], 0, 0, [], id="comes and goes"),
        pytest.param([GONE, PUT], 1, 0, [7], id="comes back"),
        pytest.param([GONE, PUT, GONE], 0, 0, [7], id="comes back and goes"),
        pytest.param([PUT, GONE, PUT], 1, 0, [], id="comes, goes and comes back"),
    ],
)
@pytest.mark.parametrize("apart", [False, True], ids=["one commit", "several"])
def test_what_is_written(records: list[Record], puts: int, states: int, gone: list[int], apart: bool) -> None:
    commits = [CommitGroup() for _ in records] if apart else [CommitGroup()] * len(records)
    for commit, record in zip(commits, records, strict=True):
        commit.records.append(record)
    written = gather(commits if apart else commits[:1])
    assert (len(written.puts) // 3, len(written.states), written.gone) == (puts, states, gone)
