"""What the holder of a credential may do: roles, the queues they are about, and until when."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from fnmatch import fnmatchcase
from math import inf
from typing import Literal

Role = Literal["producer", "consumer", "metrics", "admin"]
ROLES: tuple[Role, ...] = ("producer", "consumer", "metrics", "admin")
"""Sends messages; takes, settles and looks at them; reads statistics; administers, and does all the others do."""
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,79}", re.ASCII)
ALL_QUEUES = "*"
_PATTERN = re.compile(r"[A-Za-z0-9._*?-]{1,80}", re.ASCII)
_DAY = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Grant:
    """What the holder of one credential may do. `name` is public: it is in the log, the credential is not."""

    name: str
    roles: frozenset[Role]
    queues: str = ALL_QUEUES
    """A pattern: `*` is any number of characters of a queue's name, `?` is one."""
    expires: float = inf
    """Seconds since the epoch."""

    def has_role(self, role: Role) -> bool:
        """Whether it carries `role`; an administrator has all of them."""
        return role in self.roles or "admin" in self.roles

    def allows(self, role: Role, *queues: str | None) -> bool:
        """Whether it carries `role` for each of `queues`; None is all there are together."""
        return self.has_role(role) and all(map(self.covers, queues))

    def covers(self, queue: str | None) -> bool:
        """Whether it is about the queue of that name; None is what is about all of them."""
        return self.queues == ALL_QUEUES or (queue is not None and fnmatchcase(queue, self.queues))


def parse_roles(text: str) -> frozenset[Role]:
    """Return the roles meant by `producer,consumer`; ValueError otherwise."""
    words = text.split(",")
    roles = frozenset(role for role in ROLES if role in words)
    if len(roles) != len(words):
        raise ValueError(f"give one or more of the roles {', '.join(ROLES)}, each once, with commas between them")
    return roles


def check_name(text: str) -> str:
    """Return `text` if a grant can be called so; ValueError otherwise."""
    if not NAME.fullmatch(text):
        raise ValueError(
            "a name must be 1 to 80 letters, digits, dots, dashes and underscores, beginning with a letter or"
            " digit"
        )
    return text


def check_pattern(text: str) -> str:
    """Return `text` if it is a pattern of queue names; ValueError otherwise."""
    if _DAY.match(text):
        # An operator who leaves the pattern out would get a credential that never ends.
        raise ValueError("the date must come after the queues; give * for all queues")
    if not _PATTERN.fullmatch(text):
        raise ValueError(
            "queues must be a pattern of 1 to 80 characters: a queue's name, in which * stands for any"
            " characters and ? for one"
        )
    return text


def parse_expiry(text: str) -> float:
    """Return when `2027-01-31` is over, or when `2027-01-31T12:00:00Z` is, both UTC; ValueError otherwise."""
    try:
        if _DAY.fullmatch(text):
            return (datetime.strptime(text, "%Y-%m-%d").replace(tzinfo=UTC) + timedelta(days=1)).timestamp()
        return datetime.strptime(text, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC).timestamp()
    except (ValueError, OverflowError):
        raise ValueError("give a date such as 2027-01-31, or a time such as 2027-01-31T12:00:00Z") from None
