"""Messages that share a row: which do, what is left of them, and what is found at the next start."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.durable.history import opened, view
from zapq.core.message import DEFAULTS, Properties
from zapq.core.queue_settings import QueueSettings
from zapq.core.records import MessagesDeleted, MessageState, Put, PutMany, QueuePut, Record, row_of
from zapq.errors import CannotStart
from zapq.limits import PACK_BODY_BYTES, PACK_LEAST, PACK_MOST
from zapq.store import database
from zapq.store.database import Database
from zapq.store.port import CommitGroup

QUEUE = QueuePut(1, "q", 1, 10**6, QueueSettings(), False)
JSON = Properties("application/json")


@pytest.fixture(autouse=True)
def smaller(monkeypatch: pytest.MonkeyPatch) -> None:
    # A log that takes no time to make.
    monkeypatch.setattr(database, "CHECKPOINT_PAGES", 16)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Database]:
    with opened(tmp_path) as (database, _, _):
        database.prepare()
        commit(database, QUEUE)
        yield database


def commit(store: Database, *records: Record) -> None:
    group = CommitGroup()
    group.records += records
    store.commit([group])


def row(id: int) -> int:
    return row_of(1, id)


def batch(first: int, number: int = 100, properties: Properties = DEFAULTS) -> PutMany:
    return PutMany(row(first), [b"%d" % id for id in range(first, first + number)], properties)


def gone(*ids: int) -> MessagesDeleted:
    return MessagesDeleted([row(id) for id in ids])


def kept(store: Database) -> dict[int, tuple[bytes, Properties, float]]:
    """What the next start finds: of each message its body, what is known of it, and when it is ready."""
    messages: dict[int, tuple[bytes, Properties, float]] = view(store.read(0.0, 0.0))["queues"][1][1]
    return messages


def rows(store: Database) -> dict[str, int]:
    """How many rows each table has."""
    tables = ("messages", "packs", "gone", "states")
    count = "select count(*) from {}"
    return {table: store._connection.execute(count.format(table)).fetchone()[0] for table in tables}


def tidy_up(store: Database) -> None:
    while store.untidy:
        store.tidy(idle=True)


def plain(*ids: int) -> dict[int, tuple[bytes, Properties, float]]:
    return {id: (b"%d" % id, DEFAULTS, 0.0) for id in ids}


@pytest.mark.parametrize(
    ("records", "messages", "packs"),
    [
        pytest.param([batch(1)], 0, 1, id="a batch"),
        pytest.param([batch(1), batch(101, properties=JSON), batch(301)], 0, 3, id="batches"),
        pytest.param([batch(1, PACK_LEAST - 1)], PACK_LEAST - 1, 0, id="too few"),
        pytest.param([batch(1, PACK_MOST + 50)], 0, 2, id="more than fit"),
        pytest.param([Put(row(id), b"%d" % id) for id in range(1, 101)], 0, 1, id="one by one"),
        pytest.param([Put(row(id), b"%d" % id) for id in range(1, 200, 2)], 100, 0, id="with gaps"),
        pytest.param([Put(row(id), bytes(PACK_BODY_BYTES + 1)) for id in range(1, 101)], 100, 0, id="large"),
        pytest.param([batch(1), gone(50)], 0, 2, id="one that is gone at once"),
        pytest.param([batch(1), gone(*range(1, 101))], 0, 0, id="all of them gone at once"),
        pytest.param([Put(row(id), b"%d" % id, JSON) for id in range(1, 101)], 0, 1, id="alike"),
        pytest.param([Put(row(id), b"%d" % id, JSON, 9.0) for id in range(1, 101)], 0, 1, id="delayed alike"),
        pytest.param(
            [Put(row(id), b"%d" % id, JSON if id == 50 else DEFAULTS) for id in range(1, 101)],
            1,
            2,
            id="one other",
        ),
    ],
)
def test_which_messages_share_a_row(store: Database, records: list[Record], messages: int, packs: int) -> None:
    commit(store, *records)
    assert (rows(store)["messages"], rows(store)["packs"]) == (messages, packs)
    expected: dict[int, tuple[bytes, Properties, float]] = {}
    for each in records:
        match each:
            case Put(at, body, properties, due):
                expected[at - row(0)] = (body, properties, due)
            case PutMany(at, bodies, properties):
                expected |= {id: (body, properties, 0.0) for id, body in enumerate(bodies, at - row(0))}
            case MessagesDeleted(lost):
                expected = {id: found for id, found in expected.items() if row(id) not in lost}
    assert kept(store) == expected


def test_a_batch_is_written_as_it_came(store: Database) -> None:
    packed = b"\xdc\x00\x0a" + b"\xc4\x01x" * 10
    commit(store, PutMany(row(1), [b"x"] * 10, DEFAULTS, packed))
    assert store._connection.execute("select bodies from packs").fetchone() == (packed,)
    assert kept(store) == dict.fromkeys(range(1, 11), (b"x", DEFAULTS, 0.0))


def test_what_is_known_of_all_of_them_is_kept_with_them(store: Database) -> None:
    late = Properties(expires=4e9, headers=(("order", "17"),))
    commit(store, batch(1, 50, JSON), batch(51, 50, late))
    commit(store, MessageState(row(7), Properties("text/plain", receives=2)), gone(8, 51))
    found = kept(store)
    assert (found[6], found[7]) == ((b"6", JSON, 0.0), (b"7", Properties("text/plain", receives=2), 0.0))
    assert found[52] == (b"52", late, 0.0)
    assert found.keys() == {*range(1, 101)} - {8, 51}
    # Of those that are left alone the same is known.
    commit(store, gone(*range(9, 51), *range(53, 101)))
    for packs in (2, 0):
        assert rows(store)["packs"] == packs
        assert kept(store) == {id: each for id, each in found.items() if id < 8 or id == 52}
        store.tidy(idle=True)
    assert kept(store) == {id: each for id, each in found.items() if id < 8 or id == 52}


@pytest.mark.parametrize("properties", [Properties(arrived=8.0), Properties(expires=8.0)])
def test_times_are_those_of_the_commit(store: Database, properties: Properties) -> None:
    """The clock may be set between two commits."""
    for first, offset in ((1, 1024.0), (101, 2048.0)):
        group = CommitGroup()
        group.records += [batch(first, 100, properties), MessageState(row(first), properties)]
        group.clock_offset = offset
        store.commit([group])
    for id, offset in ((1, 1024.0), (2, 1024.0), (101, 2048.0), (102, 2048.0)):
        _, found, _ = kept(store)[id]
        assert (found.arrived or found.expires) == 8.0 + offset


@pytest.mark.parametrize("together", [1, 7, 100])
def test_a_row_goes_with_its_last_message(store: Database, together: int) -> None:
    commit(store, batch(1), batch(101))
    ids = list(range(1, 201))
    for at in range(0, 200, together):
        commit(store, gone(*ids[at : at + together]))
        assert kept(store) == plain(*ids[at + together :])
    assert not any(rows(store).values())


def test_few_messages_do_not_keep_the_bytes_of_many(store: Database) -> None:
    shuffled = random.Random(7)
    for first in range(1, 1001, 100):
        commit(store, batch(first))
    left = {*range(1, 1001)}
    while len(left) > 20:
        some = shuffled.sample(sorted(left), 20)
        commit(store, gone(*some))
        left -= {*some}
        tidy_up(store)
        packed = store._connection.execute("select sum(count) from packs").fetchone()[0] or 0
        assert packed <= 4 * len(left)
        assert kept(store) == plain(*left)


def test_a_message_that_comes_back_is_there_once(store: Database) -> None:
    commit(store, batch(1, 10))
    commit(store, gone(3, 5))
    commit(store, Put(row(3), b"3"))
    commit(store, gone(4), Put(row(4), b"4"))
    assert kept(store) == plain(1, 2, 3, 4, 6, 7, 8, 9, 10)
    in_order = store.read(0.0, 0.0).queues[0].image.in_order
    assert [message.id for message in in_order] == [1, 2, 3, 4, 6, 7, 8, 9, 10]
    commit(store, gone(*range(1, 11)))
    assert not any(rows(store).values())


@pytest.mark.parametrize("properties", [DEFAULTS, JSON])
@pytest.mark.parametrize("at_once", [False, True])
@pytest.mark.parametrize("ids", [range(1, 17), range(20, 40), range(60, 101)])
def test_many_that_come_back_share_no_row_with_those_that_stayed(
    store: Database, ids: range, at_once: bool, properties: Properties
) -> None:
    commit(store, batch(1))
    back = [Put(row(id), b"%d" % id, properties) for id in ids]
    if at_once:
        commit(store, gone(*ids), *back)
    else:
        commit(store, gone(*ids))
        commit(store, *back)
    known = {id: (b"%d" % id, properties, 0.0) for id in ids}
    assert kept(store) == plain(*range(1, 101)) | known
    for id in range(1, 101):
        commit(store, gone(id))
        known.pop(id, None)
        if id % 10 == 0:
            tidy_up(store)
            assert kept(store) == plain(*range(id + 1, 101)) | known
    assert not any(rows(store).values())


def test_what_a_purge_leaves_is_removed(store: Database) -> None:
    for first in range(1, 10**4, 100):
        commit(store, batch(first, properties=JSON))
    commit(store, gone(5))
    commit(store, QueuePut(1, "q", 2, 10**6, QueueSettings(), False), gone(3))
    assert store.read(0.0, 0.0).garbage > 9000
    steps = 0
    while store._garbage:
        store.tidy(idle=True)
        steps += 1
    assert steps > 2
    assert not any(rows(store).values())


@pytest.mark.parametrize(
    ("change", "place"),
    [
        ("update packs set row = row + 1", "packs, row"),
        ("update packs set row = row + (9 << 43)", "packs, row"),
        ("update packs set count = count + 1", "packs, row"),
        ("update packs set state = null", "packs, row"),
        ("update packs set state = 7", "packs, row"),
        ("update packs set bodies = cast(replace(bodies, '50', '51') as blob)", "packs, row"),
        ("update packs set bodies = 7", "packs, row"),
        ("update gone set which = cast(which || x'00' as blob)", "gone, row"),
        ("update gone set which = 7", "gone, row"),
        ("update gone set row = row + 1", "gone, row"),
        ("insert into messages select row + 7, 0, x'00' from packs", "messages, row .* it is there twice"),
    ],
)
def test_damage_is_found(store: Database, change: str, place: str) -> None:
    commit(store, batch(1, properties=JSON))
    commit(store, gone(2))
    store._connection.execute(change)
    with pytest.raises(CannotStart, match=f"damaged: {place}"):
        store.read(0.0, 0.0)


def test_damage_is_not_written_anew(store: Database) -> None:
    commit(store, batch(1))
    store._connection.execute("update packs set sum = sum + 1")
    commit(store, gone(*range(1, 90)))
    store.tidy(idle=True)
    assert rows(store) == {"messages": 0, "packs": 1, "gone": 1, "states": 0}


def test_one_commit_takes_nothing_apart(store: Database) -> None:
    """It would be as large as they are together, and the disk may be full."""
    for first in range(1, 10**4, 100):
        commit(store, batch(first))
    commit(store, gone(*(id for id in range(1, 10**4) if id % 100 < 75)))
    assert not store._thin
    commit(store, gone(*(id for id in range(1, 10**4) if id % 100 in {75, 76})))
    assert rows(store)["messages"] == 0
    steps = 0
    while store._thin:
        store.tidy(idle=True)
        steps += 1
    assert steps > 2
    assert rows(store) == {"messages": 2301, "packs": 0, "gone": 0, "states": 0}


def test_what_is_thin_is_known_at_the_next_start(tmp_path: Path) -> None:
    with opened(tmp_path) as (store, _, _):
        store.prepare()
        commit(store, QUEUE, batch(1))
        commit(store, gone(*range(1, 90)))
    with opened(tmp_path) as (store, found, _):
        store.prepare()
        tidy_up(store)
        assert (kept(store), rows(store)["messages"]) == (found["queues"][1][1], 11)
