"""What `zapq cron` is to send and when, as a TOML file says it. Pure: the time is an argument."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, tzinfo
from typing import Any
from zoneinfo import ZoneInfo

import msgspec
from cronsim import CronSim, CronSimError

from zapq.core.complaints import plainly
from zapq.core.headers import checked_headers
from zapq.core.message import OCTETS, Draft
from zapq.core.names import check_name
from zapq.errors import InvalidParameter

NAME_HEADER, TICK_HEADER = "cron-name", "cron-tick"
"""Headers of each message that is sent: its entry, and the time it was due."""
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,79}", re.ASCII)
_TEXTS = ("cron", "queue", "body", "timezone", "content_type", "group")
FIELDS = "minute, hour, day of the month, month, day of the week"
_NUMBERS = ("priority", "delay", "ttl")


@dataclass(frozen=True, slots=True)
class Entry:
    """One message, and when it is to be sent."""

    name: str
    cron: str
    """Minute, hour, day of the month, month, day of the week; with six fields, the second before them."""
    queue: str
    body: bytes = b""
    zone: tzinfo = UTC
    how: dict[str, Any] = field(default_factory=dict)
    """More arguments of `Client.put`."""

    def ticks(self, after: float) -> Iterator[float]:
        """Yield the Unix times at which it is due, those after the Unix time `after`."""
        for moment in CronSim(self.cron, datetime.fromtimestamp(after, self.zone)):
            # In the hour that comes twice in autumn, what was due in its first half an hour ago is yielded first.
            if (tick := moment.timestamp()) > after:
                yield tick

    def key(self, tick: float) -> str:
        """Return the Idempotency-Key of what is sent for one tick: the same for every program with this entry."""
        return f"cron-{self.name}-{_written(tick)}"

    def headers(self, tick: float) -> dict[str, str]:
        """Return the headers of what is sent for one tick."""
        return {**self.how.get("headers", {}), NAME_HEADER: self.name, TICK_HEADER: _written(tick)}


def parse_crontab(text: str) -> list[Entry]:
    """Return the entries of a TOML file, its tables `[cron.NAME]`; ValueError says which is wrong, and how."""
    tables: Any = tomllib.loads(text)
    if set(tables) != {"cron"} or not isinstance(tables["cron"], dict) or not tables["cron"]:
        raise ValueError("give a table [cron.NAME] for each message to send, and nothing else")
    entries = []
    for name, table in tables["cron"].items():
        try:
            entries.append(_entry(name, table))
        except InvalidParameter as error:
            # Put behind a place, and before a full stop.
            raise ValueError(f"[cron.{name}]: {error.detail.removesuffix('.')}") from None
        except ValueError as error:
            raise ValueError(f"[cron.{name}]: {error}") from None
    return entries


def _entry(name: str, table: Any) -> Entry:
    if not _NAME.fullmatch(name) or not isinstance(table, dict):
        raise ValueError("an entry is a table called by 1 to 80 letters, digits, dots, dashes and underscores")
    unknown = sorted(set(table) - {*_TEXTS, *_NUMBERS, "headers"})
    if unknown:
        raise ValueError(f"{unknown[0]} is not known; give {', '.join((*_TEXTS, *_NUMBERS))} and headers")
    for each in _TEXTS:
        if not isinstance(table.get(each, ""), str):
            raise ValueError(f"{each} must be text")
    for each in ("cron", "queue"):
        if each not in table:
            raise ValueError(f"{each} is missing")
    headers = table.get("headers", {})
    if not isinstance(headers, dict) or not all(isinstance(value, str) for value in headers.values()):
        raise ValueError("headers must be a table of texts")
    how = {each: table[each] for each in ("content_type", "group", *_NUMBERS) if each in table}
    try:
        msgspec.convert({"body": b"", **how}, Draft)
    except msgspec.ValidationError as error:
        raise ValueError(plainly(str(error))) from None
    if headers:
        how["headers"] = dict(checked_headers(headers.items()))
    check_name(table["queue"])
    entry = Entry(
        name,
        table["cron"],
        table["queue"],
        table.get("body", "").encode(),
        _zone(table.get("timezone", "UTC")),
        {"content_type": OCTETS} | how,
    )
    try:
        next(entry.ticks(0.0), None)
    except CronSimError as error:
        raise ValueError(f"cron = {entry.cron!r}: {_wrong(str(error))}") from None
    checked_headers(entry.headers(0.0).items())
    return entry


def _wrong(said: str) -> str:
    """Return what cronsim says of a time, as people say it."""
    if field := re.fullmatch("Bad (.+)", said):
        return f"its {field[1].replace('-', ' ')} is not valid"
    if said == "Wrong number of fields":
        return f"give five fields ({FIELDS}), or six, of which the first is the second"
    return said[:1].lower() + said[1:]


def _zone(name: str) -> tzinfo:
    try:
        return ZoneInfo(name)
    except (OSError, ValueError, KeyError):
        raise ValueError(f"there is no timezone {name!r}; give a name such as Europe/Berlin") from None


def _written(tick: float) -> str:
    return f"{datetime.fromtimestamp(tick, UTC):%Y-%m-%dT%H:%M:%SZ}"
