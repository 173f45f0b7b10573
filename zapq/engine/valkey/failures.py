"""What an error of the server says of the command it is the reply to."""

from __future__ import annotations

import re
from enum import Enum

from zapq.engine.valkey.resp import ReplyError


class Failure(Enum):
    """What to do about an error."""

    MOVED = "another server has the slot"
    ASK = "another server is getting the slot, and has this queue already"
    LATER = "it was not done, and may be soon"
    FULL = "it was not done, for the server has no memory left"
    LOST = "it was not done, and this connection is of no further use"
    LIBRARY = "it was not done, for the library is not there"
    BROKEN = "the library or the codec is wrong"


_BY_CODE = {
    "MOVED": Failure.MOVED,
    "ASK": Failure.ASK,
    "TRYAGAIN": Failure.LATER,
    "CLUSTERDOWN": Failure.LATER,
    "LOADING": Failure.LATER,
    "MASTERDOWN": Failure.LATER,
    "BUSY": Failure.LATER,
    "NOREPLICAS": Failure.LATER,
    "MISCONF": Failure.LATER,
    "READONLY": Failure.LOST,
    "UNBLOCKED": Failure.LOST,
    "NOAUTH": Failure.LOST,
    "NOPERM": Failure.LOST,
    "OOM": Failure.FULL,
}

_ELSEWHERE = frozenset({Failure.MOVED, Failure.ASK})
_REDIRECTION = re.compile(r"[A-Z]+ ([0-9]+) (\S*):([0-9]{1,5})(?: .*)?")


def failure_of(error: ReplyError) -> Failure:
    """Return what an error means for its command."""
    failure = _BY_CODE.get(error.code)
    if failure in _ELSEWHERE and _REDIRECTION.fullmatch(str(error)) is None:
        return Failure.BROKEN
    if failure is not None:
        return failure
    if "Function not found" in str(error):
        return Failure.LIBRARY
    return Failure.BROKEN


def redirected_to(error: ReplyError, asked: str) -> tuple[int, str, int]:
    """Return the slot, the host and the port that MOVED or ASK name; `asked` is the host that answered so."""
    found = _REDIRECTION.fullmatch(str(error))
    assert found is not None
    slot, host, port = found.groups()
    # Without a host it is the one that was asked.
    return int(slot), asked if host in {"", "?"} else host.strip("[]"), int(port)
