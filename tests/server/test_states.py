"""The states of connections: their pictures say what the tables say, and nothing else happens."""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator, Mapping
from enum import Enum
from pathlib import Path

import pytest

from zapq.server import states
from zapq.server.guest import Guest
from zapq.server.states import CONNECTION, GUEST, ConnectionState, GuestState

TABLES: list[tuple[Mapping[Enum, frozenset[Enum]], set[Enum]]] = [
    (GUEST, {GuestState.GONE}),  # type: ignore[list-item]
    (CONNECTION, {ConnectionState.BROKEN, ConnectionState.CLOSED}),  # type: ignore[list-item]
]
"""With the ends that are left out of the pictures: every other state but RETURNED has them."""
INSIDE = (Path(states.__file__).parent.parent.parent / "docs/explanation/inside.md").read_text()


def draw(table: Mapping[Enum, frozenset[Enum]], ends: set[Enum]) -> str:
    rows = []
    for state in table:
        if state not in ends:
            after = [each.name for each in type(state) if each in table[state] - ends]
            rows.append(f"    {state.name:9} -> {' '.join(after)}".rstrip())
    return "\n".join(rows) + "\n"


@pytest.mark.parametrize(("table", "ends"), TABLES, ids=["guest", "connection"])
def test_the_pictures_say_what_the_table_says(table: Mapping[Enum, frozenset[Enum]], ends: set[Enum]) -> None:
    picture = draw(table, ends)
    assert states.__doc__ is not None
    assert picture in states.__doc__, picture
    assert picture in INSIDE, picture


@pytest.mark.parametrize(("table", "ends"), TABLES, ids=["guest", "connection"])
def test_every_state_is_in_the_table_and_every_way_leads_to_an_end(
    table: Mapping[Enum, frozenset[Enum]], ends: set[Enum]
) -> None:
    [kind] = {type(state) for state in table}
    assert set(table) == set(kind)
    for state, after in table.items():
        assert state not in after
        assert ends - {state} <= after or state in ends or state is ConnectionState.RETURNED
        assert state.value.endswith(".")


@pytest.fixture
def guest() -> Iterator[Guest]:
    here, there = socket.socketpair()
    with here, there:
        yield Guest(here, "")


def test_a_guest_becomes_what_the_table_allows_and_nothing_else(guest: Guest) -> None:
    guest.become(GuestState.PARKED)
    with pytest.raises(AssertionError, match="PARKED cannot become COMMIT"):
        guest.become(GuestState.COMMIT)
    assert guest.state is GuestState.PARKED
    guest.become(GuestState.GONE)
    for state in set(GuestState) - {GuestState.GONE}:
        with pytest.raises(AssertionError):
            guest.become(state)


def test_nothing_else_changes_a_state() -> None:
    for name in ("lobby", "connection", "newcomers"):
        source = Path(states.__file__).with_name(f"{name}.py").read_text()
        assert set(re.findall(r"[\w.]*\bstate = .*|self\._state = .*", source)) <= {
            "state = guest.state",
            "state = ProtocolState({",
            "self._state = state",
            "self._state = ConnectionState.IDLE",
            "self._state = ConnectionState.HANDSHAKE",
            "self._state = ConnectionState.FINISHING",
        }
