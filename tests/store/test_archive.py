"""Snapshots of everything: all of it comes back, and nothing that is damaged or strange comes in."""

from __future__ import annotations

import io
import os
import struct
import tracemalloc
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import replace
from math import inf, nan
from pathlib import Path
from typing import Any
from zlib import crc32

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.core.test_image import STEPS, play, whole
from zapq.core.image import Image, KeyImage, QueueImage
from zapq.core.message import Message, Origin, Properties
from zapq.core.queue_settings import QueueSettings
from zapq.core.runs import Run
from zapq.errors import SnapshotFailed
from zapq.limits import MAX_BLOCK_BYTES
from zapq.settings import Settings
from zapq.store import archive, slices
from zapq.store.archive import Archive, Caps, Survey, survey
from zapq.store.snapshot import SnapshotStore

FIXTURES = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
CAPS = Caps(10_000, 10**8, 10**7, 100)
HEAD, BLOCK = 30, 9
KEY = KeyImage("jobs", "invoice-7", bytes(16), 3, 50.0)


@pytest.fixture
def store(zapq_settings: Settings) -> Iterator[SnapshotStore]:
    with SnapshotStore(zapq_settings) as opened:
        yield opened


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slices, "YIELD_SECONDS", 0)


def jobs(**given: Any) -> QueueImage:
    fields: dict[str, Any] = {
        "name": "jobs",
        "settings": QueueSettings(visibility=5.0, max_receives=3, dead_letter="dead"),
        "paused": True,
        "next_id": 90,
        "in_order": deque([
            Message(1, b"a"),
            Run(2, 2, 5, apart=(b"bc", b"def")),
            Message(7, b"", Properties("text/plain")),
        ]),
        "others": [
            (Message(5, b"late"), 70.0),
            (Message(4, b"odd", Properties("a/b", 9, 80.0, 2, 1, "other")), 0.0),
        ],
    }
    return QueueImage(**fields | given)


def dead() -> QueueImage:
    return QueueImage(name="dead", settings=QueueSettings(), in_order=deque(), others=[])


def everything() -> Image:
    return Image([jobs(), dead()], [KEY])


def written(image: Image, clock_offset: float = 0.0) -> bytes:
    return b"".join(bytes(piece) for piece in archive.encode(image, clock_offset, 1234.5))


def read(data: bytes, caps: Caps = CAPS, clock_offset: float = 0.0) -> Image:
    opened = Archive(io.BytesIO(data), len(data), "x.msgpack")
    return archive.decode(opened, "x.msgpack", caps, clock_offset, lambda: None)


def surveyed(data: bytes, caps: Caps = CAPS) -> Survey:
    return survey(Archive(io.BytesIO(data), len(data), "x.msgpack"), "x.msgpack", caps, lambda: None)


READERS = pytest.mark.parametrize("read", [read, surveyed])
"""What refuses one refuses the other."""


def pictured(image: Image) -> tuple[object, object]:
    return [whole(queue, -inf) for queue in image.queues], list(image.keys)


def test_everything_comes_back() -> None:
    assert pictured(read(written(everything()))) == pictured(everything())


def test_times_on_disk_are_those_of_the_wall_clock() -> None:
    data = written(everything(), 1000.0)
    on_disk = read(data)
    times = [(message.properties.expires, due) for message, due in on_disk.queues[0].others]
    assert times == [(inf, 1070), (1080, 0)]
    assert [key.until for key in on_disk.keys] == [1050]
    # Another process, later, whose clock began elsewhere.
    again = read(data, clock_offset=1060.0)
    times = [(message.properties.expires, due) for message, due in again.queues[0].others]
    assert times == [(inf, 10), (20, 0)]


def test_who_a_message_is_and_when_it_arrived_come_back() -> None:
    moved = Properties(priority=1, failed_in="other", arrived=20.0, origin=Origin("other", 5, 3))
    sent_back = Properties(origin=Origin("jobs", 6))
    image = Image([
        jobs(in_order=deque([Message(1, b"a", sent_back)]), others=[(Message(8, b"b", moved), 0.0)]),
        dead(),
    ])
    data = written(image, 1000.0)
    assert read(data).queues[0].others == [(Message(8, b"b", msgspec.structs.replace(moved, arrived=1020.0)), 0.0)]
    again = read(data, clock_offset=1060.0).queues[0]
    assert again.others == [(Message(8, b"b", msgspec.structs.replace(moved, arrived=-40.0)), 0.0)]
    assert list(again.in_order) == [Message(1, b"a", sent_back)]


@pytest.mark.parametrize(
    "origin", [Origin("no/queue", 1), Origin("", 1), Origin("jobs", 0), Origin("jobs", 1, -1)]
)
def test_a_strange_origin_is_damage(origin: Origin) -> None:
    image = Image([jobs(in_order=deque([Message(1, b"a", Properties(origin=origin))])), dead()])
    with pytest.raises(SnapshotFailed, match="damaged at byte"):
        read(written(image))


@given(steps=STEPS, piece=st.sampled_from([1, 4, 1000]))
@FIXTURES
def test_every_queue_comes_back(monkeypatch: pytest.MonkeyPatch, steps: Any, piece: int) -> None:
    monkeypatch.setattr(slices, "SLICE_MESSAGES", piece)
    queue, now = play(steps)
    before = whole(queue.image(), now)
    [again] = read(written(Image([queue.image()]))).queues
    assert whole(again, now) == before


def test_a_large_queue_is_written_and_read_in_pieces(store: SnapshotStore, tmp_path: Path) -> None:
    bodies = tuple(bytes(4096) for _ in range(1000))
    image = jobs(settings=QueueSettings(), next_id=9000, others=[])
    image.in_order = deque([
        Run(1, 1000, 4096_000, apart=bodies),
        *(Message(id, b"x") for id in range(1001, 8001)),
    ])
    steps = 0

    def step() -> None:
        nonlocal steps
        steps += 1

    pieces = 4096_000 // slices.SLICE_BYTES + 7000 // slices.SLICE_MESSAGES
    store.save_all("a.msgpack", Image([image]), 0.0, 0.0, step)
    assert steps >= pieces
    assert not image.in_order, "what is written is let go"
    steps = 0
    [queue] = store.load_all("a.msgpack", 0.0, step).queues
    assert steps >= pieces
    assert sum(len(item) if isinstance(item, Run) else 1 for item in queue.in_order) == 8000
    assert len(queue.in_order) < 100, "and no message object is made for each"
    [file] = store.files()
    assert file.totals == (1, 8000, 4096_000 + 7000)
    assert (file.name, file.bytes) == ("a.msgpack", (tmp_path / "a.msgpack").stat().st_size)


def test_an_empty_archive_is_one(store: SnapshotStore) -> None:
    store.save_all("a.msgpack", Image([]), 0.0, 0.0)
    assert store.load_all("a.msgpack", 0.0).queues == []


# Damage


def test_a_file_cut_anywhere_is_refused_with_the_place() -> None:
    data = written(everything())
    for length in range(len(data)):
        with pytest.raises(SnapshotFailed, match=r"^x\.msgpack: damaged at byte \d+: the file ends") as refusal:
            read(data[:length])
        assert refusal.value.members["byte"] <= length  # type: ignore[operator]


@pytest.mark.parametrize("change", [0x01, 0x80, 0xFF])
def test_a_changed_byte_anywhere_is_refused_with_the_place(change: int) -> None:
    data = written(everything())
    for place in range(len(data)):
        damaged = bytearray(data)
        damaged[place] ^= change
        with pytest.raises(SnapshotFailed, match=r"^x\.msgpack: damaged at byte ") as refusal:
            read(bytes(damaged))
        byte = refusal.value.members["byte"]
        assert isinstance(byte, int)
        assert byte <= place


def blocks(data: bytes) -> list[bytes]:
    """The blocks of an archive, the end included."""
    parts, place = [], HEAD
    while place < len(data):
        length = BLOCK + int.from_bytes(data[place + 1 : place + 5], "big")
        parts.append(data[place : place + length])
        place += length
    return parts


def test_blocks_that_are_missing_repeated_in_another_order_or_from_another_file_are_refused() -> None:
    data, other = written(everything()), written(everything())
    parts, others = blocks(data), blocks(other)
    assert [part[:1] for part in parts] == [b"Q", b"P", b"O", b"Q", b"K", b"E"]
    assert pictured(read(data[:HEAD] + b"".join(parts))) == pictured(everything())
    for number in range(len(parts)):
        for wrong in (
            [*parts[:number], *parts[number + 1 :]],
            [*parts[:number], parts[number], *parts[number:]],
            [*parts[:number], others[number], *parts[number + 1 :]],
            [*parts[:number], *parts[number + 1 : number + 2], parts[number], *parts[number + 2 :]],
        ):
            if wrong != parts:
                with pytest.raises(SnapshotFailed, match="damaged at byte"):
                    read(data[:HEAD] + b"".join(wrong))


def test_nothing_may_follow_the_end() -> None:
    data = written(everything())
    for more in (b"\0", b"\n", data):
        with pytest.raises(SnapshotFailed, match=rf"damaged at byte {len(data)}: something follows the end"):
            read(data + more)


def headed() -> QueueImage:
    return jobs(
        in_order=deque([
            Message(8, b"x", Properties(headers=(("a", "1"), ("b", "")))),
            Run(9, 2, 6, Properties(headers=(("a", "1"),)), apart=(b"y", b"z")),
        ]),
        others=[
            (Message(3, b"all", Properties("a/b", 9, 80.0, 2, 1, "other", (("c", "d"),), "group", "key")), 0.0)
        ],
    )


def test_headers_come_back() -> None:
    image = Image([headed(), dead()])
    assert pictured(read(written(image))) == pictured(Image([headed(), dead()]))
    [run] = [item for item in read(written(Image([headed(), dead()]))).queues[0].in_order if isinstance(item, Run)]
    assert run.size == 6


def held_in(image: QueueImage) -> list[Message]:
    in_order = [each for item in image.in_order for each in (item if isinstance(item, Run) else [item])]
    return [*in_order, *(message for message, _ in image.others)]


def test_what_the_version_before_has_written_is_all_read() -> None:
    path = Path(__file__).parents[1] / "durable" / "data" / "version-1.msgpack"
    opened = Archive(io.BytesIO(path.read_bytes()), path.stat().st_size, path.name)
    image = archive.decode(opened, path.name, CAPS, 0.0, lambda: None)
    assert opened.version == 1
    held = {queue.name: held_in(queue) for queue in image.queues}
    assert {name: [message.body for message in messages] for name, messages in held.items()} == {
        "dead": [b"ending"],
        "default": [b"plain", b"{}", b"run 1", b"run 2"],
        "work": [b"keyed", b"mortal", b"urgent", b"delayed"],
    }
    assert {message.content_type for message in held["default"]} == {
        "application/octet-stream",
        "application/json",
        "text/plain",
    }
    assert held["dead"][0].properties.failed_in == "work"
    assert {message.properties.headers for messages in held.values() for message in messages} == {()}
    assert [key.key for key in image.keys] == ["a-key"]


@pytest.mark.parametrize(
    "headers",
    [
        [["A", "x"]],
        [["a b", "x"]],
        [["a", "x\r\nb: y"]],
        [["a", "\u00fc"]],
        [["a"]],
        [["a", "b"]] * 17,
        {"a": "b"},
    ],
    ids=repr,
)
def test_headers_that_cannot_stand_in_an_answer_do_not_come_in(headers: object) -> None:
    properties = ["a/b", 0, None, 0, 0, "", headers]
    with pytest.raises(SnapshotFailed, match="damaged at byte"):
        read(forged(Q, (b"P", messages([1, properties, 0, [b"abc"]])), totals=(1, 1, 3)))


def test_headers_count_in_the_caps_of_the_server() -> None:
    data = written(Image([headed(), dead()]))
    size = sum(message.size for message in held_in(headed()))
    assert read(data, CAPS._replace(bytes=size)).queues
    with pytest.raises(SnapshotFailed, match="--max-bytes"):
        read(data, CAPS._replace(bytes=size - 1))


def test_a_newer_format_is_refused_as_such() -> None:
    head = struct.pack(">8sH8sd", b"zapq\r\n\x1a\n", 4, bytes(8), 0.0)
    with pytest.raises(SnapshotFailed, match=r"^x\.msgpack was written by a newer zapq, in format 4\."):
        read(head + crc32(head).to_bytes(4, "big") + b"what nobody knows yet")


@pytest.mark.parametrize("data", [b"", b"[]" * 50, b"\x93" * 50, bytes(50)], ids=repr)
def test_what_is_no_archive_is_refused(data: bytes) -> None:
    with pytest.raises(SnapshotFailed, match="damaged at byte 0: "):
        read(data)


# Whole, but not ours

NUMBER = bytes(8)


def forged(*parts: tuple[bytes, bytes], totals: tuple[int, int, int] | None = None) -> bytes:
    """An archive of any blocks, all its checksums right."""
    head = struct.pack(">8sH8sd", b"zapq\r\n\x1a\n", 1, NUMBER, 0.0)
    data = head + crc32(head).to_bytes(4, "big")
    for kind, content in parts:
        data += block(len(data), kind, content)
    if totals is not None:
        data += block(len(data), b"E", struct.pack(">QQQ", *totals))
    return data


def block(place: int, kind: bytes, content: bytes) -> bytes:
    checksum = crc32(struct.pack(">8sQcI", NUMBER, place, kind, len(content)) + content)
    return struct.pack(">cII", kind, len(content), checksum) + content


pack = msgspec.msgpack.encode
ABOUT = ["text/plain", 0, None, 0, 0, ""]


def queue_record(**given: object) -> bytes:
    return pack({"name": "jobs", "settings": {}, "paused": False, "next_id": 50} | given)


def messages(*records: list[object]) -> bytes:
    return pack(list(records))


Q = (b"Q", queue_record())
STRANGE: list[tuple[str, list[tuple[bytes, bytes]]]] = [
    ("no block of kind", [(b"X", b"\x90")]),
    ("messages before the first queue", [(b"P", messages([1, ABOUT, 0, [b"a"]]))]),
    ("the queue jobs is there twice", [Q, Q]),
    ("name", [(b"Q", queue_record(name="../x"))]),
    ("name", [(b"Q", queue_record(name="x" * 81))]),
    ("next_id", [(b"Q", queue_record(next_id=0))]),
    ("next_id", [(b"Q", queue_record(next_id=2**63))]),
    ("unknown", [(b"Q", queue_record(more=1))]),
    ("unknown", [(b"Q", queue_record(settings={"colour": "red"}))]),
    ("visibility", [(b"Q", queue_record(settings={"visibility": -1}))]),
    ("paused", [(b"Q", queue_record(paused=1))]),
    ("missing", [(b"Q", pack({"name": "jobs"}))]),
    ("trailing", [(b"Q", queue_record() + b"\0")]),
    ("truncated", [(b"Q", queue_record()[:-1])]),
    ("truncated", [Q, (b"P", b"")]),
    ("length", [Q, (b"P", b"\x90")]),
    ("<= 1000", [Q, (b"P", b"\xdd\xff\xff\xff\xff\xc0")]),
    ("<= 1000", [Q, (b"P", b"\x91\x94\x01" + pack(ABOUT) + b"\x00\xdd\xff\xff\xff\xff\xc4\x00")]),
    ("truncated", [Q, (b"P", b"\x91\x94\x01" + pack(ABOUT) + b"\x00\x91\xc6\xff\xff\xff\xffx")]),
    ("Expected", [Q, (b"P", b"\x91" * 1_000_000)]),
    ("Expected", [Q, (b"P", messages([1, ABOUT, 0, ["text"]]))]),
    ("Expected", [Q, (b"P", messages([1, ABOUT, 0, [[[]]]]))]),
    ("length", [Q, (b"P", messages([1, ABOUT, 0, []]))]),
    ("length", [Q, (b"P", messages([1, ABOUT, 0, [b"a"], 5]))]),
    (">= 1", [Q, (b"P", messages([0, ABOUT, 0, [b"a"]]))]),
    ("Expected", [Q, (b"P", messages([1.5, ABOUT, 0, [b"a"]]))]),
    ("not given yet", [Q, (b"P", messages([50, ABOUT, 0, [b"a"]]))]),
    ("not given yet", [Q, (b"O", messages([49, ABOUT, 0, [b"a", b"b"]]))]),
    ("not in the order of their ids", [Q, (b"P", messages([5, ABOUT, 0, [b"a"]], [4, ABOUT, 0, [b"b"]]))]),
    ("not in the order of their ids", [Q, (b"P", messages([5, ABOUT, 0, [b"a", b"b"]], [6, ABOUT, 0, [b"b"]]))]),
    (
        "not in the order of their ids",
        [Q, (b"O", messages([9, ABOUT, 0, [b"a"]])), (b"P", messages([10, ABOUT, 0, [b"b"]]))],
    ),
    ("where none is allowed", [Q, (b"P", messages([5, ABOUT, 7.0, [b"a"]]))]),
    ("where none is allowed", [Q, (b"P", messages([5, ["a/b", 1, None, 0, 0, ""], 0, [b"a"]]))]),
    ("where none is allowed", [Q, (b"P", messages([5, ["a/b", 0, 9.0, 0, 0, ""], 0, [b"a"]]))]),
    ("two messages have the same id", [Q, (b"O", messages([5, ABOUT, 0, [b"a"]], [5, ABOUT, 0, [b"b"]]))]),
    (
        "two messages have the same id",
        [Q, (b"P", messages([5, ABOUT, 0, [b"a"] * 3])), (b"O", messages([7, ABOUT, 0, [b"b"]]))],
    ),
    ("Expected", [Q, (b"O", messages([5, ABOUT, -1.0, [b"a"]]))]),
    ("Expected", [Q, (b"O", messages([5, ABOUT, nan, [b"a"]]))]),
    ("Expected", [Q, (b"O", messages([5, ABOUT, inf, [b"a"]]))]),
    ("Expected", [Q, (b"O", messages([5, ["a/b\r\nX: y", 0, None, 0, 0, ""], 0, [b"a"]]))]),
    ("Expected", [Q, (b"O", messages([5, ["", 0, None, 0, 0, ""], 0, [b"a"]]))]),
    ("Expected", [Q, (b"O", messages([5, ["a/b", 10, None, 0, 0, ""], 0, [b"a"]]))]),
    ("Expected", [Q, (b"O", messages([5, ["a/b", 0, nan, 0, 0, ""], 0, [b"a"]]))]),
    ("Expected", [Q, (b"O", messages([5, ["a/b", 0, None, -1, 0, ""], 0, [b"a"]]))]),
    ("Expected", [Q, (b"O", messages([5, ["a/b", 0, None, 0, 0, "../x"], 0, [b"a"]]))]),
    ("of a queue that is not in the file", [(b"K", messages(["jobs", "k", bytes(16), 1, 5.0]))]),
    ("Expected", [Q, (b"K", messages(["jobs", "", bytes(16), 1, 5.0]))]),
    ("Expected", [Q, (b"K", messages(["jobs", "k", bytes(15), 1, 5.0]))]),
    ("Expected", [Q, (b"K", messages(["jobs", "k" * 256, bytes(16), 1, 5.0]))]),
    ("UTF-8|utf-8", [Q, (b"K", b"\x91\x95\xa2\xff\xfe\xa1k\xc4\x10" + bytes(16) + b"\x01\x05")]),
]


@READERS
@pytest.mark.parametrize(("complaint", "parts"), STRANGE, ids=lambda value: str(value)[:60])
def test_what_zapq_did_not_write_is_refused_with_the_place(
    complaint: str, parts: list[tuple[bytes, bytes]], read: Callable[[bytes], object]
) -> None:
    place = len(forged(*parts[:-1]))
    tracemalloc.start()
    with pytest.raises(SnapshotFailed, match=rf"^x\.msgpack: damaged at byte {place}: .*({complaint})"):
        read(forged(*parts, totals=(1, 0, 0)))
    assert tracemalloc.get_traced_memory()[1] < 8_000_000
    tracemalloc.stop()


def test_a_length_is_believed_only_if_the_file_is_that_long() -> None:
    head = forged()
    for length, complaint in (
        (2**32 - 1, "the block is longer"),
        (MAX_BLOCK_BYTES, "the file ends in the middle"),
    ):
        tracemalloc.start()
        with pytest.raises(SnapshotFailed, match=f"damaged at byte {HEAD}: {complaint}"):
            read(head + struct.pack(">cII", b"P", length, 0) + bytes(100))
        assert tracemalloc.get_traced_memory()[1] < 100_000
        tracemalloc.stop()


def test_what_the_end_says_has_to_be_so() -> None:
    parts = [Q, (b"P", messages([1, ABOUT, 0, [b"abc"]]))]
    assert len(read(forged(*parts, totals=(1, 1, 3))).queues) == 1
    for totals in ((0, 1, 3), (1, 0, 3), (1, 1, 4)):
        with pytest.raises(SnapshotFailed, match="it does not hold what its end says"):
            read(forged(*parts, totals=totals))
    with pytest.raises(SnapshotFailed, match="it does not hold what its end says"):
        read(forged(*parts, (b"E", b"short")))


@pytest.mark.parametrize(
    "own",
    [
        [{"max_receives": 3}],
        [{"dead_letter": "b"}, {}],
        [{"max_receives": 3, "dead_letter": "c"}, {}],
        [{"max_receives": 3, "dead_letter": "a"}],
        [{"max_receives": 3, "dead_letter": "b"}, {"max_receives": 3, "dead_letter": "a"}],
    ],
    ids=repr,
)
@READERS
def test_dead_letters_need_a_place_to_go_to(own: list[dict[str, object]], read: Callable[[bytes], object]) -> None:
    parts = [(b"Q", queue_record(name=name, settings=each)) for name, each in zip("ab", own, strict=False)]
    with pytest.raises(SnapshotFailed, match=r"dead.letter"):
        read(forged(*parts, totals=(len(own), 0, 0)))


@pytest.mark.parametrize(
    ("caps", "limit"),
    [
        (CAPS._replace(messages=5), "max_msgs"),
        (CAPS._replace(bytes=12), "max_bytes"),
        (CAPS._replace(message_bytes=3), "max_message_bytes"),
        (CAPS._replace(queues=2), "max_queues"),
    ],
)
def test_caps_are_checked_while_reading(caps: Caps, limit: str) -> None:
    assert read(written(everything()), Caps(6, 13, 4, 3)).queues
    with pytest.raises(SnapshotFailed, match=f"--{limit.replace('_', '-')}") as refusal:
        read(written(everything()), caps)
    assert refusal.value.members == {"limit": limit}


def test_a_survey_says_what_there_is_and_caps_hold_for_each_queue() -> None:
    other = jobs(name="dead", settings=QueueSettings(), in_order=deque([Message(1, b"xyz")]), others=[])
    data = written(Image([jobs(), other], [KEY]))
    found = surveyed(data, Caps(6, 13, 4, 3))
    assert [*found.queues] == ["jobs", "dead"]
    assert found.messages == 7
    assert found.number == Archive(io.BytesIO(data), len(data), "x").number
    for caps in (Caps(5, 13, 4, 3), Caps(6, 12, 4, 3), Caps(6, 13, 3, 3), Caps(6, 13, 4, 2)):
        with pytest.raises(SnapshotFailed, match="Raise it, and load the file again"):
            surveyed(data, caps)


# Files


def make_link(path: Path) -> None:
    path.symlink_to(path.parent / "real.msgpack")


def make_hard_link(path: Path) -> None:
    path.hardlink_to(path.parent / "real.msgpack")


ODD = [Path.mkdir, os.mkfifo, make_link, make_hard_link]


@pytest.mark.parametrize("make", ODD, ids=lambda make: make.__name__)
def test_only_plain_files_of_ours_are_read_and_listed(
    store: SnapshotStore, tmp_path: Path, make: Callable[[Path], None]
) -> None:
    store.save_all("real.msgpack", everything(), 0.0, 0.0)
    make(tmp_path / "odd.msgpack")
    with pytest.raises(SnapshotFailed, match=r"^odd\.msgpack "):
        store.load_all("odd.msgpack", 0.0)
    assert "odd.msgpack" not in [file.name for file in store.files()]
    assert [each.name for each in store.newest_first("odd.msgpack")] == ["odd.msgpack"]
    assert store.newest_first("missing.msgpack") == []


def test_snapshots_are_listed_by_name_and_nothing_else_is(store: SnapshotStore, tmp_path: Path) -> None:
    store.save_all("b.msgpack", everything(), 0.0, 0.0)
    store.save("a.json", [b"x"])
    (tmp_path / "c.msgpack").write_bytes(b"cut short")
    (tmp_path / "d.msgpack").write_bytes((tmp_path / "b.msgpack").read_bytes()[:-1])
    for name in ("zapq.db", ".a.json.tmp", "-x.json", "a b.json", "notes.txt"):
        (tmp_path / name).touch()
    assert [(file.name, file.totals) for file in store.files()] == [
        ("a.json", None),
        ("b.msgpack", (2, 6, 13)),
        ("c.msgpack", None),
        ("d.msgpack", None),
    ]
    store.remove("b.msgpack")
    assert store.newest_first("b.msgpack") == []
    with pytest.raises(SnapshotFailed, match="No such file or directory"):
        store.remove("b.msgpack")


def test_a_file_no_valid_archive_can_be_as_large_as_is_not_read(zapq_settings: Settings, tmp_path: Path) -> None:
    with (tmp_path / "a.msgpack").open("wb") as file:
        file.truncate(10**12)
    with SnapshotStore(zapq_settings) as store, pytest.raises(SnapshotFailed, match="larger than"):
        store.load_all("a.msgpack", 0.0)


def test_queues_at_their_caps_can_be_saved_and_loaded(zapq_settings: Settings) -> None:
    number = 3000
    properties = Properties("x" * 255, 9, 1e9, 7, 7, "y" * 80)
    caps = replace(zapq_settings, max_msgs=number, max_bytes=number, max_queues=1)
    image = QueueImage(
        name="default",
        settings=QueueSettings(),
        next_id=2 * number,
        in_order=deque(),
        others=[(Message(2 * id + 1, b"x", properties), 5.0) for id in range(number)],
    )
    keys = [KeyImage("default", f"{id:0255}", bytes(16), 1, 5.0) for id in range(number)]
    with SnapshotStore(caps) as store:
        store.save_all("a.msgpack", Image([image], keys), 0.0, 0.0)
        again = store.load_all("a.msgpack", 0.0)
    assert list(again.queues[0].others) == image.others
    assert list(again.keys) == keys


def test_a_failed_save_leaves_the_old_file_and_nothing_else(
    store: SnapshotStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.save_all("a.msgpack", everything(), 0.0, 0.0)
    before = (tmp_path / "a.msgpack").read_bytes()

    def fail(*args: object, **kwargs: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(SnapshotFailed, match=r"^a\.msgpack could not be written: No space left on device"):
        store.save_all("a.msgpack", Image([]), 0.0, 0.0)
    assert os.listdir(tmp_path) == ["a.msgpack"]
    assert (tmp_path / "a.msgpack").read_bytes() == before
