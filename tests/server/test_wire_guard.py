"""The wire guard on bytes alone: the table of what is refused, however the bytes arrive."""

from __future__ import annotations

import h11
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.server.wire_table import ANSWERED, BY_H11, FINE, REFUSED
from zapq.server.protocols import GuardedH11
from zapq.server.wire_guard import check_head


@pytest.mark.parametrize("data", FINE.values(), ids=FINE)
def test_what_is_fine_is_let_through_however_it_arrives(data: bytes) -> None:
    assert check_head(data) is None
    for length in range(min(len(data), 3000)):
        assert check_head(data[:length]) is None, data[:length]


@pytest.mark.parametrize(("status", "data"), REFUSED.values(), ids=REFUSED)
def test_what_is_refused_says_why(status: int, data: bytes) -> None:
    refusal = check_head(data)
    assert refusal is not None
    assert refusal.status == status
    assert refusal.detail.endswith((".", "?"))
    assert "\n" not in refusal.detail


@pytest.mark.parametrize(("status", "data"), REFUSED.values(), ids=REFUSED)
def test_a_refusal_is_final_whatever_follows(status: int, data: bytes) -> None:
    refusal = None
    for length in range(0, len(data) + 1, 1 + len(data) // 500):
        seen = check_head(data[:length])
        assert refusal is None or seen is not None
        refusal = seen
    assert check_head(data + b"GET / HTTP/1.1\r\nHost: x\r\n\r\n") is not None


CHUNKS = {name: data for name, (_, data) in BY_H11.items() if "behind" in name and "size" in name}


def parsed(data: bytes, length: int) -> list[object]:
    """The events h11 gives for `data` that comes in pieces of that length."""
    connection = GuardedH11()
    events: list[object] = []
    for start in range(0, len(data), length):
        connection.receive_data(data[start : start + length])
        while (event := connection.next_event()) not in (h11.NEED_DATA, h11.PAUSED):
            events.append(event)
    return events


@pytest.mark.parametrize("data", CHUNKS.values(), ids=CHUNKS)
def test_a_blank_behind_a_chunks_size_is_refused_however_it_arrives(data: bytes) -> None:
    assert len(CHUNKS) == 4
    for length in range(1, len(data) + 1):
        with pytest.raises(h11.RemoteProtocolError, match="blank") as refused:
            parsed(data, length)
        assert refused.value.error_status_hint == 400


def test_chunks_that_are_fine_are_let_through_however_they_arrive() -> None:
    _, data = ANSWERED["a chunk extension"]
    for length in range(1, len(data) + 1):
        request, *parts, end = parsed(data, length)
        assert isinstance(request, h11.Request)
        assert b"".join(bytes(part.data) for part in parts if isinstance(part, h11.Data)) == b"5 \r"
        assert isinstance(end, h11.EndOfMessage)


TOKENS = st.text("!#$%&'*+.^_`|~abcXYZ019-", min_size=1, max_size=10)
VALUES = st.text("".join(map(chr, range(0x20, 0x7F))) + "\t\xe9", max_size=30)


@given(
    method=TOKENS.map(str.upper),
    path=st.text("".join(map(chr, range(0x21, 0x7F))).replace("#", ""), max_size=50),
    fields=st.lists(st.tuples(TOKENS.map(lambda name: "X-" + name), VALUES), max_size=20),
    cut=st.integers(0),
)
def test_every_well_formed_head_is_let_through(
    method: str, path: str, fields: list[tuple[str, str]], cut: int
) -> None:
    lines = [f"{method} /{path} HTTP/1.1", "Host: x", *(f"{name}:{value}" for name, value in fields), "", ""]
    data = "\r\n".join(lines).encode("latin-1")
    assert check_head(data) is None
    assert check_head(data[: cut % len(data)]) is None


def test_a_client_that_speaks_tls_is_told_so_whatever_its_greeting_holds() -> None:
    refusal = check_head(b"\x16\x03\x01\x02\x00\x01\n\r\xfc")
    assert refusal is not None
    assert "If the client speaks TLS, use http:// here." in refusal.detail
