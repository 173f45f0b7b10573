"""A spool: log lines wait here for the thread that writes them, so that no task waits for their reader.

The word is the field's, since printers had one. A pipe that is not read is full after some hundred lines, and a
write to it then lasts until it is. Python's own `QueueListener` would do, except at the end: it waits for the last
line, and so for ever.
"""

from __future__ import annotations

import os
import queue
import select
import threading
import time
from collections.abc import Callable

from zapq.limits import SPOOLED_LINES


class Spool:
    """A text stream that writes to `descriptor` in a thread of its own; `write` never waits.

    It holds a bounded number of lines; more are dropped and counted, and `on_drop` is told how many that were,
    from that thread, once all that were held are written.
    """

    def __init__(self, descriptor: int, on_drop: Callable[[int], object] = lambda dropped: None) -> None:
        self._crowded_out = self._failed = 0
        self._descriptor = descriptor
        self._on_drop = on_drop
        self._told = 0
        self._lines: queue.Queue[bytes | None] = queue.Queue(SPOOLED_LINES)
        # A daemon: the process must be able to end while it waits for a reader.
        self._thread = threading.Thread(target=self._run, name="zapq-log", daemon=True)
        self._thread.start()

    @property
    def dropped(self) -> int:
        """Lines that were not written, and never will be."""
        return self._crowded_out + self._failed

    def write(self, text: str) -> None:
        """Have `text`, whole lines, written soon, or drop it; never waits."""
        try:
            self._lines.put_nowait(text.encode(errors="backslashreplace"))
        except queue.Full:
            self._crowded_out += 1

    def flush(self) -> None:
        """Do nothing: the lines are on their way, and no task is to wait for them."""

    def close(self, patience: float) -> None:
        """Wait until everything is written, but at most `patience` seconds; what comes later is dropped."""
        deadline = time.monotonic() + patience
        try:
            self._lines.put(None, timeout=patience)
        except queue.Full:
            return
        self._thread.join(max(deadline - time.monotonic(), 0))

    def _run(self) -> None:
        # Past Python's own buffers: a thread that held their lock while it waits here would also hold up the end.
        while (line := self._lines.get()) is not None:
            try:
                self._write(line)
            except OSError:
                self._failed += 1  # its reader is gone; maybe the next line has one
                continue
            dropped = self.dropped - self._told
            if dropped and self._lines.empty():
                self._told += dropped
                self._on_drop(dropped)

    def _write(self, line: bytes) -> None:
        while line:
            try:
                line = line[os.write(self._descriptor, line) :]
            except BlockingIOError:  # the program that started us shares it with others, and they do not wait
                select.select([], [self._descriptor], [])
