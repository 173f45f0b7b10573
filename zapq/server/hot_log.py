"""The fast road with an access log: the bytes of requests that are logged are read once more, here.

So the fast road itself knows nothing of it, and without one costs what it costs.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import partial
from time import perf_counter
from typing import Any

from zapq.access.certificate import NOBODY, Identities
from zapq.http.access_log import AccessLog
from zapq.limits import MAX_LOGGED_PATH
from zapq.server.hotpath import Answers, HotPath
from zapq.server.peer_network import Socket, peer_of_socket

_LENGTH = re.compile(rb"\r\n(?i:content-length):[\t ]*([0-9]+)")
_ACTION = re.compile(rb"\r\n(?i:x-amz-target):[\t ]*AmazonSQS\.(\w+)")
_QUEUE_URL = re.compile(rb'"QueueUrl"\s*:\s*"(?:[^"]*/)?([^"/]+)"')
_TRACE = b"\r\nX-Trace-Id: "
_STATUS = len(b"HTTP/1.1 ")


class LoggedHotPath(HotPath):
    """Answers the hot requests of one server, and tells `log` of them."""

    def __init__(self, *arguments: Any, log: AccessLog) -> None:
        super().__init__(*arguments)
        self._log = log

    def respond(
        self, data: bytes, identities: Identities = NOBODY, sock: Socket | None = None, large: bool = True
    ) -> Answers:
        """Answer as `HotPath` does. What is answered now is logged now, the rest once its answer is made."""
        started = perf_counter()
        answers = super().respond(data, identities, sock, large)
        chosen = self._log.choose(answers.requests) if answers.requests else ()
        if chosen:
            noted = _Noted(self._log, started, data[: answers.used], chosen, peer_of_socket(sock))
            if answers.group is not None:
                # Made already, and sent once the disk has it; if it fails, other answers are made.
                answers.noted = noted
                answers.group.after.append(partial(_on_commit, answers))
            elif answers.pending is not None:
                answers.noted = noted
            else:
                noted.log(answers.data)
        return answers

    def complete(
        self, answers: Answers, sock: Socket | None = None, *, left: bool = False, draining: bool = False
    ) -> None:
        """Make the answers as `HotPath` does, and log them."""
        super().complete(answers, sock, left=left, draining=draining)
        _log(answers)


def _on_commit(answers: Answers) -> None:
    assert answers.group is not None
    if not answers.group.failure:
        _log(answers)


def _log(answers: Answers) -> None:
    noted, answers.noted = answers.noted, None
    if noted is not None:
        noted.log(answers.data)


class _Noted:
    """Requests whose lines are to be written once their answers are made."""

    def __init__(
        self, log: AccessLog, started: float, data: bytes, chosen: Sequence[int], peer: dict[str, str]
    ) -> None:
        self._log = log
        self._started = started
        self._data = data
        self._chosen = chosen
        self._peer = peer

    def log(self, answers: bytes) -> None:
        """Write the lines; `answers` are all that were made for the requests."""
        data, seconds = self._data, perf_counter() - self._started
        chosen = iter(self._chosen)
        wanted, number, at, answer = next(chosen), 0, 0, 0
        while True:
            end, stop = _bounds(data, at)
            answer_end, answer_stop = _bounds(answers, answer)
            if number == wanted:
                trace = answers.index(_TRACE, answer, answer_end) + len(_TRACE)
                trace_id = answers[trace : answers.index(b"\r\n", trace)].decode()
                method, target, _ = data[at : data.index(b"\r\n", at)].decode().split(" ")
                status = int(answers[answer + _STATUS : answer + _STATUS + 3])
                size = answer_stop - answer_end
                more = self._peer if target != "/" else self._peer | _sqs(data, at, end, stop)
                self._log.note(trace_id, method, target, status, size, seconds, more)
                wanted = next(chosen, -1)
                if wanted < 0:
                    return
            number, at, answer = number + 1, stop, answer_stop


def _bounds(data: bytes, at: int) -> tuple[int, int]:
    """Return where the head of the message at `at` ends, and its body; both roads frame both by their length."""
    end = data.index(b"\r\n\r\n", at) + 4
    match = _LENGTH.search(data, at, end)
    return end, end if match is None else end + int(match[1])


def _sqs(data: bytes, at: int, end: int, stop: int) -> dict[str, str]:
    """Return action and queue of a request of SQS; its path says neither."""
    action, queue = _ACTION.search(data, at, end), _QUEUE_URL.search(data, end, stop)
    told = {} if action is None else {"action": action[1].decode()}
    if queue is not None:
        told["queue"] = queue[1][:MAX_LOGGED_PATH].decode("ascii", "backslashreplace")
    return told
