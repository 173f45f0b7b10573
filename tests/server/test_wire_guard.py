"""The wire guard on bytes alone: the table of what is refused, however the bytes arrive."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.server.wire_table import FINE, REFUSED
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
