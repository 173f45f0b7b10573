"""Snapshot files: the original's format to the byte, all or nothing, and nowhere but in the data directory."""

from __future__ import annotations

import os
import socket
import stat
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from zapq.errors import CannotStart, InvalidParameter, SnapshotFailed
from zapq.settings import Settings
from zapq.store import slices
from zapq.store.snapshot import SnapshotStore, snapshot_name

FIXTURES = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)


@pytest.fixture
def store(zapq_settings: Settings) -> Iterator[SnapshotStore]:
    with SnapshotStore(zapq_settings) as opened:
        yield opened


@pytest.fixture
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Make pieces so small that between them they are cut at every place."""
    monkeypatch.setattr(slices, "YIELD_SECONDS", 0)
    return partial(monkeypatch.setattr, slices, "SLICE_BYTES")


PIECES = st.sampled_from([1, 2, 3, 5, 8, 40, 256])


def decoded_whole(text: bytes) -> list[bytes] | None:
    """What msgspec makes of the whole file at once; None if nothing."""
    try:
        bodies = msgspec.json.decode(text, type=list[bytes | None] | None)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
    return [body or b"" for body in bodies or []]


def assert_read_as_if_whole(store: SnapshotStore, file: Path, text: bytes) -> None:
    file.write_bytes(text)
    expected = decoded_whole(text)
    if expected is None:
        with pytest.raises(SnapshotFailed):
            store.load(file.name)
    else:
        assert store.load(file.name) == expected


@pytest.mark.parametrize(
    ("bodies", "text"),
    [
        ([], b"[]"),
        ([b""], b'[""]'),
        ([b"hi", b"", b"\xff\xfe\xfd"], b'["aGk=","","//79"]'),
        ([b">>>???"], b'["Pj4+Pz8/"]'),
    ],
)
def test_the_file_is_what_the_original_writes(
    store: SnapshotStore, tmp_path: Path, bodies: list[bytes], text: bytes
) -> None:
    store.save("a.json", bodies)
    assert (tmp_path / "a.json").read_bytes() == text


@pytest.mark.parametrize(
    ("text", "bodies"),
    [
        (b"null", []),
        (b"null\n", []),
        (b"[]\n", []),
        (b' [\n  "aGk=",\n  null,\n  ""\n]\n', [b"hi", b"", b""]),
        (b'["aGk="]\n', [b"hi"]),
        (b" \r\n\t null \n", []),
        (b" " * 300_000 + b'[\n\t"aGk="\r\n]' + b"\n" * 300_000, [b"hi"]),
        (b'["\\u0061Gk="]', [b"hi"]),
    ],
)
def test_what_go_may_write_is_read(store: SnapshotStore, tmp_path: Path, text: bytes, bodies: list[bytes]) -> None:
    (tmp_path / "a.json").write_bytes(text)
    assert store.load("a.json") == bodies


@FIXTURES
@given(bodies=st.lists(st.binary(max_size=30), max_size=30), piece=PIECES)
def test_every_queue_comes_back(
    store: SnapshotStore,
    tmp_path: Path,
    small_pieces: Callable[[int], None],
    bodies: list[bytes],
    piece: int,
) -> None:
    small_pieces(piece)
    store.save("a.json", bodies)
    assert (tmp_path / "a.json").read_bytes() == msgspec.json.encode(bodies)
    assert store.load("a.json") == bodies


GOOD = st.sampled_from(['"aGk="', '""', "null"])
BAD = st.sampled_from(['"a"', "1", '"aGk=', "[]", '["",""]', "{}", '"a,b"', " ", ""])


@FIXTURES
@given(
    text=st.builds(
        lambda start, elements, separator, end: start + separator.join(elements) + end,
        st.sampled_from(["[", "", " [", "[[", "[,", "\v[", "null", " nu"]),
        st.lists(GOOD | BAD, max_size=6),
        st.sampled_from([",", ", ", ",,", " ,\n ", ",\f"]),
        st.sampled_from(["]", "", "]\n", "]]", ",]", "] x", "\v]", "null", "ll"]),
    ),
    piece=PIECES,
)
def test_reading_in_pieces_accepts_exactly_what_reading_whole_does(
    store: SnapshotStore, tmp_path: Path, small_pieces: Callable[[int], None], text: str, piece: int
) -> None:
    small_pieces(piece)
    assert_read_as_if_whole(store, tmp_path / "a.json", text.encode())


@pytest.mark.parametrize("text", ["[,]", '[,"aGk="]', '["aGk=",]', '["aGk=", ]', '["aGk=",,null]', '["" , ,""]'])
@pytest.mark.parametrize("piece", [1, 2, 3, 4, 5, 6, 7, 8, slices.SLICE_BYTES])
def test_a_comma_stands_between_two_elements(
    store: SnapshotStore, tmp_path: Path, small_pieces: Callable[[int], None], text: str, piece: int
) -> None:
    small_pieces(piece)
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(SnapshotFailed):
        store.load("a.json")


@FIXTURES
@given(
    bodies=st.lists(st.none() | st.binary(max_size=9), max_size=6),
    indent=st.sampled_from([-1, 0, 2]),
    # Replace the bytes from `place` on, `length` of them, by `new`.
    damages=st.lists(
        st.tuples(
            st.integers(0, 80),
            st.integers(0, 3),
            st.sampled_from([b"", *(b"%c" % code for code in b'[],"nul{}0aA=+/-\\ \n\v\0'), b"\xff", b"null"]),
        ),
        max_size=3,
    ),
    piece=PIECES,
)
def test_a_damaged_file_is_read_only_if_what_is_left_makes_sense(
    store: SnapshotStore,
    tmp_path: Path,
    small_pieces: Callable[[int], None],
    bodies: list[bytes | None],
    indent: int,
    damages: list[tuple[int, int, bytes]],
    piece: int,
) -> None:
    small_pieces(piece)
    text = msgspec.json.format(msgspec.json.encode(bodies), indent=indent)
    for place, length, new in damages:
        place %= len(text) + 1
        text = text[:place] + new + text[place + length :]
    assert_read_as_if_whole(store, tmp_path / "a.json", text)


@pytest.mark.parametrize("piece", [1, 4, slices.SLICE_BYTES])
def test_a_file_cut_anywhere_is_refused(
    store: SnapshotStore, tmp_path: Path, small_pieces: Callable[[int], None], piece: int
) -> None:
    small_pieces(piece)
    text = b'["aGVsbG8=","d29ybGQ=",null,""]'
    for length in range(len(text)):
        (tmp_path / "a.json").write_bytes(text[:length])
        with pytest.raises(SnapshotFailed, match=r"a\.json"):
            store.load("a.json")


@pytest.mark.parametrize(
    "text",
    [
        b"\xff\xfe",
        b'["aGk=","\xff\xfe\xfd\xfc"]',
        b"\xef\xbb\xbf[]",
        b'{"a":1}',
        b'"aGk="',
        b"[1]",
        b"[true]",
        b"[[]]",
        b'["aGk=",["aGk="]]',
        b'["a?"]',
        b'["aGk"]',
        b'["aG k="]',
        b'["\\ud800"]',
        b'["aGk="] x',
        b'["aGk="]["aGk="]',
        b"[]\0",
        b"nullnull",
        b"null" + b" " * 300_000 + b"x",
        b"\x0c[]",
        b"null\x0b",
        # A blank at the end of the first piece is still part of the damage.
        b'["' + b"YWFh" * ((slices.SLICE_BYTES - 4) // 4) + b"Y " + b'Q=="]',
    ],
    ids=lambda text: repr(text[:20]),
)
def test_what_is_no_snapshot_is_refused(zapq_settings: Settings, tmp_path: Path, text: bytes) -> None:
    (tmp_path / "a.json").write_bytes(text)
    with (
        SnapshotStore(replace(zapq_settings, max_message_bytes=2**20)) as store,
        pytest.raises(SnapshotFailed, match=r"JSON array of base64 strings\. It is damaged after message"),
    ):
        store.load("a.json")


def test_damage_is_reported_with_the_number_of_messages_before_it(
    store: SnapshotStore, tmp_path: Path, small_pieces: Callable[[int], None]
) -> None:
    small_pieces(8)
    (tmp_path / "a.json").write_bytes(b'["aGk=","aGk=",5,"aGk="]')
    with pytest.raises(SnapshotFailed, match="is damaged after message 2"):
        store.load("a.json")


def test_caps_are_checked_while_reading(zapq_settings: Settings, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_bytes(msgspec.json.encode([b"12345"] * 3))
    for limit, capped in (
        ("max_msgs", replace(zapq_settings, max_msgs=2)),
        ("max_bytes", replace(zapq_settings, max_bytes=14)),
        ("max_message_bytes", replace(zapq_settings, max_message_bytes=4)),
    ):
        with SnapshotStore(capped) as store, pytest.raises(SnapshotFailed) as refusal:
            store.load("a.json")
        assert refusal.value.members["limit"] == limit


def test_a_file_no_valid_snapshot_can_be_as_large_as_is_not_read(zapq_settings: Settings, tmp_path: Path) -> None:
    with (tmp_path / "a.json").open("wb") as file:
        file.truncate(10**12)  # sparse: reading it would take hours
    with SnapshotStore(zapq_settings) as store, pytest.raises(SnapshotFailed, match="larger than") as refusal:
        store.load("a.json")
    assert refusal.value.members["limit"] == "max_bytes"


@pytest.mark.parametrize("body", [b"", b"a", b"12345"])
def test_a_queue_at_its_caps_can_be_saved_and_loaded(zapq_settings: Settings, body: bytes) -> None:
    number = 60_000
    caps = replace(zapq_settings, max_msgs=number, max_bytes=max(1, number * len(body)))
    with SnapshotStore(caps) as store:
        store.save("a.json", [body] * number)
        assert store.load("a.json") == [body] * number


@pytest.mark.parametrize(
    "name",
    [
        "",
        ".json",
        ".hidden.json",
        "a",
        "a.json.tmp",
        "a.JSON",
        "../a.json",
        "/etc/a.json",
        "a/b.json",
        "a\\b.json",
        "..",
        "a\0.json",
        "a.json\n",
        "a b.json",
        "\uff0ea.json",
        "a\u2215b.json",
        "\uff41.json",
        "x" * 124 + ".json",
        "-a.json",
    ],
)
def test_names_that_are_not_bare_are_refused(name: str) -> None:
    with pytest.raises(InvalidParameter):
        snapshot_name(name)


@pytest.mark.parametrize("name", ["a.json", "0.json", "A-b_c.d.json", "x" * 123 + ".json", "a.msgpack"])
def test_bare_names_are_taken(name: str) -> None:
    assert snapshot_name(name) == name


def test_only_plain_files_of_ours_are_read(store: SnapshotStore, tmp_path: Path) -> None:
    outside, another = tmp_path.parent / "outside.json", tmp_path.parent / "another.json"
    outside.write_bytes(b"[]")
    another.write_bytes(b"[]")
    (tmp_path / "link.json").symlink_to(another)
    (tmp_path / "device.json").symlink_to("/dev/null")
    (tmp_path / "directory.json").mkdir()
    (tmp_path / "hard.json").hardlink_to(outside)
    os.mkfifo(tmp_path / "fifo.json")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "socket.json"))
    descriptors = set(os.listdir("/proc/self/fd"))
    for name in ("link", "device", "directory", "hard", "fifo", "socket", "missing"):
        with pytest.raises(SnapshotFailed, match=rf"^{name}\.json "):
            store.load(f"{name}.json")
    assert set(os.listdir("/proc/self/fd")) == descriptors


def test_writing_over_a_link_replaces_the_link_and_not_what_it_names(store: SnapshotStore, tmp_path: Path) -> None:
    outside = tmp_path.parent / "outside.txt"
    outside.write_text("precious")
    (tmp_path / "a.json").symlink_to(outside)
    store.save("a.json", [b"hi"])
    assert outside.read_text() == "precious"
    assert not (tmp_path / "a.json").is_symlink()


def test_files_are_private_and_so_is_a_directory_we_make(zapq_settings: Settings, tmp_path: Path) -> None:
    directory = tmp_path / "made" / "here"
    with SnapshotStore(replace(zapq_settings, data_dir=str(directory))) as store:
        store.save("a.json", [])
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    assert stat.S_IMODE((directory / "a.json").stat().st_mode) == 0o600


def test_a_data_directory_that_is_a_file_cannot_start(zapq_settings: Settings, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "circle").symlink_to("circle")
    for name in ("file", "file/below", "circle", "circle/below", "x" * 256):
        with (
            pytest.raises(CannotStart, match="--data-dir"),
            SnapshotStore(replace(zapq_settings, data_dir=str(tmp_path / name))),
        ):
            pass


def test_a_data_directory_may_be_a_link(zapq_settings: Settings, tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    with SnapshotStore(replace(zapq_settings, data_dir=str(tmp_path / "link"))) as store:
        store.save("a.json", [])
    assert os.listdir(tmp_path / "real") == ["a.json"]


@pytest.mark.parametrize("call", ["fsync", "rename", "open"])
def test_a_failed_save_leaves_the_old_file_and_nothing_else(
    store: SnapshotStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    store.save("a.json", [b"old"])

    def fail(*args: object, **kwargs: object) -> None:
        raise OSError(28, "No space left on device")

    descriptors = set(os.listdir("/proc/self/fd"))
    with monkeypatch.context() as patch:
        patch.setattr(os, call, fail)
        with pytest.raises(SnapshotFailed, match=r"^a\.json could not be written: No space left on device"):
            store.save("a.json", [b"new"])
    assert set(os.listdir("/proc/self/fd")) == descriptors
    assert os.listdir(tmp_path) == ["a.json"]
    assert store.load("a.json") == [b"old"]


def test_what_is_written_is_on_disk_before_the_name_points_to_it(
    store: SnapshotStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []
    fsync, rename = os.fsync, os.rename

    def noted_fsync(descriptor: int) -> None:
        calls.append("fsync directory" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "fsync file")
        fsync(descriptor)

    def noted_rename(source: str, target: str, *, src_dir_fd: int, dst_dir_fd: int) -> None:
        calls.append("rename")
        assert Path(tmp_path, source).read_bytes() == b'["aGk="]'
        rename(source, target, src_dir_fd=src_dir_fd, dst_dir_fd=dst_dir_fd)

    monkeypatch.setattr(os, "fsync", noted_fsync)
    monkeypatch.setattr(os, "rename", noted_rename)
    store.save("a.json", [b"hi"])
    assert calls == ["fsync file", "rename", "fsync directory"]


def test_a_file_replaced_in_the_moment_it_is_opened_is_read(
    store: SnapshotStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.save("a.json", [b"old"])
    plain_open = os.open

    def open_and_replace(path: str, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
        descriptor = plain_open(path, flags, mode, dir_fd=dir_fd)
        if path == "a.json":
            store.save("a.json", [b"new"])
        return descriptor

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", open_and_replace)
        assert store.load("a.json") == [b"old"]
    assert store.load("a.json") == [b"new"]


def test_a_reader_meanwhile_sees_the_old_file_or_the_new_one(
    store: SnapshotStore, small_pieces: Callable[[int], None]
) -> None:
    small_pieces(64)
    old, new = [b"old"] * 500, [b"new"] * 700
    store.save("a.json", old)
    seen: list[list[bytes]] = []
    done = threading.Event()

    def read() -> None:
        while not done.is_set():
            seen.append(store.load("a.json"))

    reader = threading.Thread(target=read)
    reader.start()
    try:
        for bodies in (new, old) * 5:
            before = len(seen)
            store.save("a.json", bodies)
            # Two loads more, so that one of them began after the save and has to be of the new file.
            while len(seen) < before + 2 and reader.is_alive():
                reader.join(0.001)
            assert store.load("a.json") == bodies
    finally:
        done.set()
        reader.join()
    assert all(bodies in (old, new) for bodies in seen)
    assert old in seen
    assert new in seen
