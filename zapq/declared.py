"""Queues that are to be there from the start: tables of a TOML file, such as [queues.emails], or names alone."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import msgspec

from zapq.core.broker import Broker
from zapq.core.complaints import plainly
from zapq.core.names import check_name
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


def read_queues(path: str, tables: object) -> dict[str, QueueSettings]:
    """Return the queues that the tables of a file declare; `InvalidSetting` says which table and key is wrong."""
    if not isinstance(tables, dict):
        raise _wrong(f"{path}: queues must be tables, such as [queues.jobs].")
    return {name: _read_queue(f"{path}: {queue_section(name)}", name, table) for name, table in tables.items()}


def parse_names(text: str) -> dict[str, QueueSettings]:
    """Return the queues meant by `emails, reports.fifo`, set as a table without keys would; else ValueError."""
    names = [each.strip() for each in text.split(",")] if text else []
    for name in names:
        try:
            check_name(name)
        except ZapqError as error:
            raise ValueError(error.detail.removesuffix(".")) from None
    return {name: _read_queue(queue_section(name), name, {}) for name in names}


def check_queues(
    declared: Mapping[str, QueueSettings], named: Mapping[str, QueueSettings], max_queues: int
) -> None:
    """Raise `InvalidSetting` unless `PUT /queues/NAME` would take each of these, one after the other."""
    if not declared and not named:
        return
    broker = Broker(max_messages=1, max_bytes=1, max_queues=max_queues)
    for name, settings in declared.items():
        if not isinstance(settings, QueueSettings):
            raise _wrong(f"{queue_section(name)}: give QueueSettings.")
        try:
            broker.configure(name, settings, 0.0)
        except ZapqError as error:
            raise _wrong(f"{queue_section(name, error)}: {error.detail}") from None
    for name in named:
        try:
            broker.open(name, 0.0)
        except ZapqError as error:
            raise InvalidSetting(f"--queue {name}: {error.detail}", setting="queue") from None


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
