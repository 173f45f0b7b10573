"""Queues as a TOML file declares them: a table for each, such as [queues.emails]."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from typing import Any

import msgspec

from zapq.core.complaints import plainly
from zapq.core.queue_settings import DURATIONS, QueueSettings
from zapq.errors import InvalidSetting, ZapqError
from zapq.quantities import parse_duration, parse_size
from zapq.sqs.noted import FIFO, FIFO_ONLY, KEPT, NATIVE, NOTE, SCOPE, TAG, note_of

_KEYS = (*QueueSettings.__struct_fields__, "fifo", "sqs", "tags")
_PARSE = {**dict.fromkeys(DURATIONS, parse_duration), "max_bytes": parse_size}


def queue_section(name: str, error: ZapqError | None = None) -> str:
    """Return how the TOML file spells the section of a queue, and the key in it that `error` is about."""
    plain = re.fullmatch(r"[A-Za-z0-9_-]+", name, re.ASCII)
    section = f"[queues.{name if plain else msgspec.json.encode(name).decode()}]"
    key = error.members.get("parameter") if error is not None else None
    return f"{section} {key}" if key in QueueSettings.__struct_fields__ else section


def read_toml(path: str, flag: str) -> dict[str, Any]:
    """Return what the file has that a flag names; `InvalidSetting` if it cannot be read."""
    try:
        with open(path, "rb") as file:
            table = tomllib.load(file)
        _check_integers(table)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise InvalidSetting(f"--{flag} {path!r}: {reason}.", setting=flag) from None
    return table


def _check_integers(table: dict[str, Any]) -> None:
    """Raise ValueError for one that TOML does not have. Longer ones could not even be shown."""
    left: list[Any] = [table]
    while left:
        value = left.pop()
        if isinstance(value, dict):
            left.extend(value.values())
        elif isinstance(value, list):
            left.extend(value)
        elif isinstance(value, int) and not -(2**63) <= value < 2**63:
            raise ValueError("an integer is out of range; TOML has those of 64 bits")


def read_queues(path: str, tables: object) -> dict[str, QueueSettings]:
    """Return the queues that the tables of a file declare; `InvalidSetting` says which table and key is wrong."""
    if not isinstance(tables, dict):
        raise _wrong(f"{path}: queues must be tables, such as [queues.jobs].")
    return {name: _read_queue(f"{path}: {queue_section(name)}", name, table) for name, table in tables.items()}


def _wrong(detail: str) -> InvalidSetting:
    return InvalidSetting(detail, setting="queues")


def _read_queue(section: str, name: str, table: object) -> QueueSettings:
    """Return what one table says of a queue. Durations and sizes may be written as those of other settings."""
    if not isinstance(table, dict):
        raise _wrong(f"{section} must be a table.")
    values: dict[str, Any] = {}
    for key, value in table.items():
        if key not in _KEYS:
            known = f"The settings are: {', '.join(_KEYS)}."
            if isinstance(value, dict):
                known = f"For a queue of that name, write {queue_section(f'{name}.{key}')}."
            raise _wrong(f"{section}: {key!r} is not a setting of a queue. {known}")
        if key not in QueueSettings.__struct_fields__:
            continue
        parse = _PARSE.get(key)
        try:
            values[key] = parse(value) if parse is not None and isinstance(value, str) else value
            # Each by itself, so that the complaint is about one.
            msgspec.convert({key: values[key]}, QueueSettings)
        except ValueError as error:  # msgspec's are of that kind
            why = plainly(str(error)).removeprefix(f"{key} ")
            raise _wrong(f"{section} {key} = {value!r}: {why}.") from None
    _check_fifo(section, name, table)
    notes = _notes_of_sqs(section, name, table)
    if notes:
        values["notes"] = {**values.get("notes", {}), **notes}
    try:
        return msgspec.convert(values, QueueSettings)
    except msgspec.ValidationError as error:
        raise _wrong(f"{section}: {plainly(str(error))}.") from None


def _check_fifo(section: str, name: str, table: Mapping[str, object]) -> None:
    """Raise `InvalidSetting` unless a queue's name and its `fifo` say the same."""
    fifo = table.get("fifo", name.endswith(FIFO))
    if not isinstance(fifo, bool):
        raise _wrong(f"{section} fifo = {fifo!r}: give true or false.")
    if fifo != name.endswith(FIFO):
        other = queue_section(f"{name}{FIFO}" if fifo else name.removesuffix(FIFO))
        raise _wrong(
            f"{section} fifo = {str(fifo).lower()}: the name of a FIFO queue, and of no other, ends in {FIFO}."
            f" Write {other}, or leave fifo out."
        )


def _notes_of_sqs(section: str, name: str, table: Mapping[str, object]) -> dict[str, str]:
    """Return the notes for what only SQS clients see of a queue: `sqs`, its attributes, and `tags`."""
    notes: dict[str, str] = {}
    for attribute, value in _table(section, table, "sqs").items():
        place = f"{section} sqs.{attribute} = {value!r}"
        if attribute in NATIVE:
            raise _wrong(f"{place}: every queue has this. Write {NATIVE[attribute]} outside of sqs.")
        if attribute not in KEPT:
            raise _wrong(f"{place}: SQS has no such attribute to set. The attributes are: {', '.join(KEPT)}.")
        if attribute in FIFO_ONLY and not name.endswith(FIFO):
            raise _wrong(f"{place}: that is for FIFO queues, whose names end in {FIFO}.")
        try:
            notes[NOTE + attribute] = note_of(attribute, value)
        except (ValueError, TypeError) as error:
            raise _wrong(f"{place}: {error}.") from None
    if name.endswith(FIFO):
        # As it is declared, and not as it was when the queue was made.
        notes[SCOPE] = notes.get(f"{NOTE}DeduplicationScope", "queue")
    for key, value in _table(section, table, "tags").items():
        if not isinstance(value, str):
            raise _wrong(f"{section} tags.{key} = {value!r}: give text.")
        notes[TAG + key] = value
    return notes


def _table(section: str, table: Mapping[str, object], key: str) -> dict[str, object]:
    inner = table.get(key, {})
    if not isinstance(inner, dict):
        raise _wrong(f"{section} {key} = {inner!r}: give a table.")
    return inner
