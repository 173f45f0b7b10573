"""A connection in the lobby: its state, and what belongs to that."""

from __future__ import annotations

from math import inf

from zapq.access.certificate import NOBODY, Identities
from zapq.server.hotpath import Answers
from zapq.server.states import GUEST, GuestState
from zapq.server.tls import TlsSocket, Wire, socket_of
from zapq.service.reservation import Reservation


class Guest:
    """A connection in the lobby."""

    __slots__ = (
        "answers",
        "deadline",
        "events",
        "identities",
        "large",
        "needed",
        "network",
        "reserved",
        "rest",
        "sock",
        "state",
        "wire",
    )

    def __init__(self, wire: Wire, network: str) -> None:
        self.wire = wire
        """What is read from and written to: `sock`, or TLS on it."""
        self.sock = socket_of(wire)
        """What the selector watches."""
        self.network = network
        self.state = GuestState.IDLE
        self.identities: Identities = NOBODY
        """What the client's certificate says."""
        if isinstance(wire, TlsSocket):
            self.identities = wire.identities
            if not wire.established:
                self.state = GuestState.HANDSHAKE
        self.deadline = inf
        """When its state has lasted too long."""
        self.events = 0
        """What the selector has it for."""
        self.rest: bytes | bytearray = bytearray()
        """What was received and not answered yet."""
        self.needed = 0
        """How long `rest` must be before it is worth looking at again."""
        self.large = False
        """In BODY, and in MORE of one that waits for its turn: whether the request may take milliseconds."""
        self.answers: Answers | None = None
        """In COMMIT and PARKED: those that wait."""
        self.reserved: Reservation | None = None
        """In BODY, and in MORE of a request that may take milliseconds: room for the message."""

    def become(self, state: GuestState) -> None:
        """Enter `state`, which must be one that the table allows."""
        assert state is self.state or state in GUEST[self.state], f"{self.state.name} cannot become {state.name}"
        self.state = state

    def release_reservation(self) -> Reservation | None:
        """Reserve nothing any more; return what held the reservation, if there was one."""
        reserved, self.reserved = self.reserved, None
        if reserved is not None:
            reserved.release()
        return reserved
