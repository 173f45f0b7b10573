"""push --lines and push --file: each line is a message, and many lines are one request."""

from __future__ import annotations

import os
import random
import stat
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from time import sleep
from typing import Any, BinaryIO, TextIO

import click

from zapq.command.http import STRANGE, Answer, Connection, Failed, queue_path
from zapq.command.options import print_json
from zapq.limits import CLIENT_ATTEMPTS, MAX_BATCH, MAX_MESSAGE_BYTES, PRODUCER_BATCH_BYTES, PROGRESS_AFTER

_READ = 256 * 1024
"""Bytes read in one go: several batches of short lines."""


@dataclass(frozen=True, slots=True)
class Sender:
    """Sends lines to one queue, each as a message with the same properties."""

    connection: Connection
    queue: str
    properties: Mapping[str, object]
    """Of each message, as a batch has them."""
    fields: Mapping[str, str]
    """Header fields of each request."""

    def send(self, lines: list[bytes]) -> tuple[list[int], list[str]]:
        """Store the messages, all or none, and return their ids, and what became of those with a key.

        What may pass is tried again, as often and after such pauses as the client for Python does it.
        """
        # Here, for the other commands do without.
        import msgspec

        body = msgspec.msgpack.encode([{"body": line, **self.properties} for line in lines])
        # A key makes it safe to send the batch again if the connection breaks.
        fields = {"Content-Type": "application/msgpack", "Idempotency-Key": os.urandom(16).hex(), **self.fields}
        path = queue_path(self.queue, "messages", "batch")
        said: Any = self._request(path, body, fields).json
        try:
            ids = said.get("ids") or list(range(said["first_id"], said["first_id"] + said["count"]))
            unique = ["" if how == "stored" else how for how in said.get("unique") or [""] * len(ids)]
        except (LookupError, TypeError, AttributeError):
            raise Failed(STRANGE) from None
        if len(ids) != len(lines) or len(unique) != len(lines):
            raise Failed(STRANGE)
        return ids, unique

    def _request(self, path: str, body: bytes, fields: Mapping[str, str]) -> Answer:
        from zapq.client.retry import Retry
        from zapq.errors import ServerError

        retry, failures = Retry(CLIENT_ATTEMPTS, random.random), 0
        while True:
            try:
                return self.connection.request("POST", path, body=body, headers=fields)
            except Failed as failed:
                failures += 1
                error = ServerError(status=failed.status or HTTPStatus.INTERNAL_SERVER_ERROR)
                error.retry_after = failed.retry_after
                if not retry.allows(error, failures, repeatable=True):
                    raise
                sleep(retry.pause(error, failures))


def send_each(sender: Sender, stream: BinaryIO, *, as_json: bool) -> None:
    """Send each line of the stream as soon as it can be read, and print its id."""
    count = 0
    with _progress(stream, wanted=not sys.stdout.isatty()) as note:
        for lines in batches(stream):
            with _counted(count):
                ids, unique = sender.send(lines)
            note(lines)
            count += len(lines)
            for id, how in zip(ids, unique, strict=True):
                if as_json:
                    print_json({"id": id} | ({"unique": how} if how else {}))
                else:
                    print(id)
                    if how == "kept":
                        key = sender.properties["unique"]
                        sentence = f"{sender.queue} holds this message with the key {key}. Nothing was stored."
                        print(sentence, file=sys.stderr)
            sys.stdout.flush()


def send_file(sender: Sender, path: str, *, as_json: bool) -> None:
    """Send each line of a file, and print how many there were, and their first and last id."""
    count, ends = 0, list[int]()
    with open(path, "rb") as stream, _progress(stream, wanted=True) as note:
        for lines in batches(stream):
            with _counted(count):
                ids, _ = sender.send(lines)
            note(lines)
            count += len(lines)
            ends = [ends[0] if ends else ids[0], ids[-1]]
    if as_json:
        print_json({"count": count} | ({"first_id": ends[0], "last_id": ends[-1]} if ends else {}))
    else:
        print(f"{sender.queue}: {count} messages sent" + (f", {ends[0]} to {ends[-1]}" if ends else ""))


def batches(stream: BinaryIO) -> Iterator[list[bytes]]:
    """Yield the lines of the stream, as many at a time as can be read and fit into one batch."""
    read = getattr(stream, "read1", stream.read)
    rest = b""
    while data := read(_READ):
        *lines, rest = (rest + data).split(b"\n")
        if len(rest) > MAX_MESSAGE_BYTES:
            raise Failed(f"A line has more than {MAX_MESSAGE_BYTES} bytes, and no message can.")
        yield from _cut(lines)
    if rest:
        yield [rest]


def _cut(lines: list[bytes]) -> Iterator[list[bytes]]:
    batch: list[bytes] = []
    size = 0
    for line in lines:
        if batch and (len(batch) == MAX_BATCH or size + len(line) > PRODUCER_BATCH_BYTES):
            yield batch
            batch, size = [], 0
        batch.append(line)
        size += len(line)
    if batch:
        yield batch


@contextmanager
def _counted(stored: int) -> Iterator[None]:
    """Let a failure say how many messages were stored before."""
    try:
        yield
    except Failed as error:
        if not stored:
            raise
        messages = "1 message was" if stored == 1 else f"{stored} messages were"
        raise Failed(f"{messages} stored. The next batch failed: {error}") from error


@contextmanager
def _progress(stream: BinaryIO, *, wanted: bool) -> Iterator[Any]:
    """Yield what is told of lines that are sent; on a terminal, a bar shows them if it takes a while."""
    errors = _errors()
    size = _size(stream) if wanted and errors.isatty() else 0
    if not size:
        yield lambda lines: None
        return
    began, sent = time.monotonic(), 0
    bar: Any = None
    with ExitStack() as stack:

        def note(lines: list[bytes]) -> None:
            nonlocal bar, sent
            sent += sum(map(len, lines)) + len(lines)
            if bar is None and time.monotonic() - began > PROGRESS_AFTER:
                bar = stack.enter_context(click.progressbar(length=size, file=errors, label="sent"))
            if bar is not None:
                bar.update(min(sent, size) - bar.pos)

        yield note


def _errors() -> TextIO:
    return sys.stderr


def _size(stream: BinaryIO) -> int:
    """Return how long a file is; 0 for what is none."""
    try:
        found = os.fstat(stream.fileno())
    except OSError:
        return 0
    return found.st_size if stat.S_ISREG(found.st_mode) else 0
