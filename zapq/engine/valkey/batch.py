"""Natural batching: what arrives while a batch is under way gathers, and is the next one.

Under light load a batch is one operation, which waits for none; under load batches grow by themselves, and what an
operation costs falls. Operations of one queue with one kind of effect stay in the order they came: the order of
one producer is kept, and so is that of consumers. Those that follow each other and are alike are one call.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from zapq.engine.valkey.asked import Asked
from zapq.limits import ENGINE_BATCH_BYTES, ENGINE_BATCH_OPERATIONS

Key = tuple[Any, ...]
"""What operations that keep their order have in common: their queue, and the kind of their effect."""


class Gathering:
    """What waits for the next batch to one server."""

    def __init__(self) -> None:
        self._groups: dict[Key, list[Asked]] = {}
        self.bytes = 0

    def __bool__(self) -> bool:
        return bool(self._groups)

    def add(self, key: Key, asked: Asked) -> None:
        """Let an operation be part of the next batch, behind those with its key."""
        group = self._groups.get(key)
        if group is None:
            self._groups[key] = [asked]
        else:
            group.append(asked)
        self.bytes += asked.size

    def put_back(self, key: Key, asked: Sequence[Asked]) -> None:
        """Let operations that were not done be part of the next batch, in front of those with their key."""
        self._groups = {key: [*asked, *self._groups.pop(key, ())], **self._groups}
        self.bytes += sum(each.size for each in asked)

    def cut(self) -> list[tuple[Key, list[Asked]]]:
        """Take out the next batch: bounded in number and bytes, but at least one operation."""
        all_of_them = sum(map(len, self._groups.values()))
        if all_of_them <= ENGINE_BATCH_OPERATIONS and self.bytes <= ENGINE_BATCH_BYTES:
            return self.take_all()
        batch: list[tuple[Key, list[Asked]]] = []
        number = size = 0
        for key in list(self._groups):
            group = self._groups[key]
            taken = 0
            for each in group:
                if number and (number >= ENGINE_BATCH_OPERATIONS or size + each.size > ENGINE_BATCH_BYTES):
                    break
                taken += 1
                number += 1
                size += each.size
            if taken == len(group):
                batch.append((key, group))
                del self._groups[key]
                continue
            if taken:
                batch.append((key, group[:taken]))
                # To the end, so that no queue keeps the others waiting.
                del self._groups[key]
                self._groups[key] = group[taken:]
            break
        self.bytes -= size
        return batch

    def take_all(self) -> list[tuple[Key, list[Asked]]]:
        """Take out everything."""
        groups, self._groups, self.bytes = self._groups, {}, 0
        return list(groups.items())

    def drop(self, unwanted: Callable[[Asked], bool]) -> list[Asked]:
        """Take out the operations that are `unwanted`, and return them."""
        dropped: list[Asked] = []
        for key, group in list(self._groups.items()):
            out = [each for each in group if unwanted(each)]
            if not out:
                continue
            dropped += out
            rest = [each for each in group if not unwanted(each)]
            if rest:
                self._groups[key] = rest
            else:
                del self._groups[key]
        self.bytes -= sum(each.size for each in dropped)
        return dropped
