"""Snapshot files: the original's format to the byte, all or nothing, and nowhere but in the data directory."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from zapq.errors import CannotStart, InvalidParameter, SnapshotFailed
from zapq.settings import Settings
from zapq.store import snapshot
from zapq.store.snapshot import SnapshotStore, snapshot_name

FIXTURES = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)


@pytest.fixture
def store(zapq_settings: Settings) -> Iterator[SnapshotStore]:
    with SnapshotStore(zapq_settings) as opened:
        yield opened


@pytest.fixture
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cut everywhere, so that every boundary is met."""
    monkeypatch.setattr(snapshot, "PIECE_BYTES", 7)
    monkeypatch.setattr(snapshot, "PAUSE", 0)


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
    ],
)
def test_what_go_may_write_is_read(store: SnapshotStore, tmp_path: Path, text: bytes, bodies: list[bytes]) -> None:
    (tmp_path / "a.json").write_bytes(text)
    assert store.load("a.json") == bodies


@pytest.mark.usefixtures("small_pieces")
@FIXTURES
@given(bodies=st.lists(st.binary(max_size=30), max_size=30))
def test_every_queue_comes_back(store: SnapshotStore, tmp_path: Path, bodies: list[bytes]) -> None:
    store.save("a.json", bodies)
    assert (tmp_path / "a.json").read_bytes() == msgspec.json.encode(bodies)
    assert store.load("a.json") == bodies


ELEMENTS = st.sampled_from(['"aGk="', '""', "null", '"a"', "1", '"aGk=', "[]", '["",""]', "{}", '"a,b"', " ", ""])


@pytest.mark.usefixtures("small_pieces")
@FIXTURES
@given(
    text=st.builds(
        lambda start, elements, separator, end: start + separator.join(elements) + end,
        st.sampled_from(["[", "", " [", "[[", "[,"]),
        st.lists(ELEMENTS, max_size=6),
        st.sampled_from([",", ", ", ",,", " ,\n "]),
        st.sampled_from(["]", "", "]\n", "]]", ",]", "] x"]),
    )
)
def test_reading_in_pieces_accepts_exactly_what_reading_whole_does(
    store: SnapshotStore, tmp_path: Path, text: str
) -> None:
    (tmp_path / "a.json").write_text(text)
    try:
        whole = msgspec.json.decode(text, type=list[bytes | None])
    except msgspec.DecodeError:
        with pytest.raises(SnapshotFailed):
            store.load("a.json")
    else:
        assert store.load("a.json") == [body or b"" for body in whole]


def test_a_file_cut_anywhere_is_refused(store: SnapshotStore, tmp_path: Path) -> None:
    text = b'["aGVsbG8=","d29ybGQ=",""]'
    for length in range(len(text)):
        (tmp_path / "a.json").write_bytes(text[:length])
        with pytest.raises(SnapshotFailed, match=r"a\.json"):
            store.load("a.json")


@pytest.mark.parametrize(
    "text", [b"\xff\xfe", b'{"a":1}', b'"aGk="', b"[1]", b'["a?"]', b"nullnull", b'["\\ud800"]']
)
def test_what_is_no_snapshot_is_refused(store: SnapshotStore, tmp_path: Path, text: bytes) -> None:
    (tmp_path / "a.json").write_bytes(text)
    with pytest.raises(SnapshotFailed):
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
    with SnapshotStore(zapq_settings) as store, pytest.raises(SnapshotFailed, match="larger than"):
        store.load("a.json")


@pytest.mark.parametrize(
    "name",
    [
        "",
        ".json",
        ".hidden.json",
        "a",
        "a.msgpack",
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


@pytest.mark.parametrize("name", ["a.json", "0.json", "A-b_c.d.json", "x" * 123 + ".json"])
def test_bare_names_are_taken(name: str) -> None:
    assert snapshot_name(name) == name


def test_only_plain_files_of_ours_are_read(store: SnapshotStore, tmp_path: Path) -> None:
    outside = tmp_path.parent / "outside.json"
    outside.write_bytes(b"[]")
    (tmp_path / "link.json").symlink_to(outside)
    (tmp_path / "device.json").symlink_to("/dev/null")
    (tmp_path / "directory.json").mkdir()
    (tmp_path / "hard.json").hardlink_to(outside)
    os.mkfifo(tmp_path / "fifo.json")
    for name in ("link", "device", "directory", "hard", "fifo", "missing"):
        with pytest.raises(SnapshotFailed):
            store.load(f"{name}.json")


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
    with (
        pytest.raises(CannotStart, match="--data-dir"),
        SnapshotStore(replace(zapq_settings, data_dir=str(tmp_path / "file"))),
    ):
        pass


@pytest.mark.parametrize("call", ["fsync", "rename", "open"])
def test_a_failed_save_leaves_the_old_file_and_nothing_else(
    store: SnapshotStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    store.save("a.json", [b"old"])

    def fail(*args: object, **kwargs: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, call, fail)
        with pytest.raises(SnapshotFailed, match="No space left on device"):
            store.save("a.json", [b"new"])
    assert os.listdir(tmp_path) == ["a.json"]
    assert store.load("a.json") == [b"old"]
