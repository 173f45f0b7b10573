"""Both readers, and the packing of commands."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.engine.valkey.scripted import encoded
from zapq.engine.valkey import resp
from zapq.engine.valkey.resp import INCOMPLETE, PlainReader, ProtocolError, ReplyError, open_reader, pack


def comparable(value: Any) -> Any:
    if isinstance(value, ReplyError):
        return ("error", str(value))
    return [comparable(each) for each in value] if isinstance(value, list) else value


ERRORS = st.from_regex(r"[A-Z]{2,8} [ -~]{0,20}", fullmatch=True).map(ReplyError)
SCALARS = st.none() | st.integers(-(2**63), 2**63 - 1) | st.binary(max_size=40) | ERRORS
VALUES = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=5), max_leaves=20)


@given(st.lists(VALUES, max_size=5), st.data())
def test_every_reader_gives_what_was_sent_however_it_arrives(values: list[Any], data: st.DataObject) -> None:
    sent = b"".join(map(encoded, values))
    readers = [PlainReader(), open_reader()]
    got: list[list[Any]] = [[], []]
    at = 0
    while at < len(sent):
        size = data.draw(st.integers(1, len(sent) - at))
        for reader, replies in zip(readers, got, strict=True):
            reader.feed(sent[at : at + size])
            while (reply := reader.gets()) is not INCOMPLETE:
                replies.append(reply)
        at += size
    expected = [comparable(value) for value in values]
    assert [comparable(replies) for replies in got] == [expected, expected]


@pytest.mark.parametrize(
    ("sent", "value"),
    [
        (b"+OK\r\n", b"OK"),
        (b"*-1\r\n", None),
        (b"_\r\n", None),
        (b"#t\r\n", True),
        (b",1.5\r\n", 1.5),
        (b"%1\r\n$1\r\na\r\n*0\r\n", {b"a": []}),
        (b"=5\r\ntxt:x\r\n", b"x"),
    ],
)
def test_our_reader_knows_the_third_version_as_well(sent: bytes, value: object) -> None:
    reader = PlainReader()
    reader.feed(sent)
    assert reader.gets() == value
    assert reader.gets() is INCOMPLETE


@pytest.mark.parametrize("sent", [b"HTTP/1.1 400 Bad Request\r\n", b":a\r\n", b"$x\r\n", b"no"])
def test_what_is_no_reply_is_told(sent: bytes) -> None:
    reader = PlainReader()
    reader.feed(sent)
    with pytest.raises(ProtocolError):
        reader.gets()


def test_a_reader_is_there_without_hiredis(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resp, "FastReader", None)
    assert isinstance(open_reader(), PlainReader)


def test_a_command_is_packed() -> None:
    assert pack("GET", b"\r\n", 7) == b"*3\r\n$3\r\nGET\r\n$2\r\n\r\n\r\n$1\r\n7\r\n"
    assert ReplyError("MOVED 1 host:2").code == "MOVED"
