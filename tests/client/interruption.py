"""Ctrl-C at a point of choice: at each place where Python looks whether a signal has come, one after the other."""

from __future__ import annotations

import dis
import sys
from collections.abc import Generator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any

_LOOKS = {dis.opmap[name] for name in ("RESUME", "CALL", "JUMP_BACKWARD", "CALL_FUNCTION_EX")}
"""After these."""


class _Interruption:
    """Raises KeyboardInterrupt in this thread at the point `number` within code of the client or of threading."""

    def __init__(self, number: int) -> None:
        self._left = number
        self._last: dict[FrameType, int] = {}

    def trace(self, frame: FrameType, event: str, argument: object) -> Any:
        """See `sys.settrace`."""
        if "zapq/client/" not in frame.f_code.co_filename and not frame.f_code.co_filename.endswith(
            "threading.py"
        ):
            return None
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        return self._look

    def _look(self, frame: FrameType, event: str, argument: object) -> Any:
        if event == "opcode":
            before = self._last.get(frame)
            self._last[frame] = frame.f_code.co_code[frame.f_lasti]
            if before in _LOOKS:
                self._left -= 1
                if not self._left:
                    sys.settrace(None)
                    raise KeyboardInterrupt
        return self._look


@contextmanager
def interrupted_at(number: int) -> Generator[None, None, None]:
    """Interrupt the block at that point of it, from 1 on, if it has so many, and end the interruption here.

    From Python 3.12 on, only functions that were traced before have points.
    """
    before = sys.gettrace()
    with suppress(KeyboardInterrupt):
        try:
            sys.settrace(_Interruption(number).trace)
            yield
        finally:
            sys.settrace(before)
