"""Log lines: one JSON object each on standard output, for machines first and for people second.

Library code logs to loggers below `zapq` and configures nothing; only the command line calls `configure`,
and `written_aside`, so a program that embeds zapq keeps its own logging.
"""

from __future__ import annotations

import logging
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Protocol

import msgspec

from zapq.limits import SPOOL_SECONDS
from zapq.settings import Settings
from zapq.spool import Spool

log = logging.getLogger("zapq")
current_trace_id: ContextVar[str] = ContextVar("zapq_trace_id", default="")
"""The trace id of the request this task works for; in every line it logs."""

LINES_PER_SECOND = 10
"""Lines logged a second for each cause: enough to see what is going on, too few to fill a disk."""
STATE_LINES_PER_SECOND = 1
"""The same for what is a state, and tried again and again while it lasts: more lines would say no more."""


def say(level: int, message: str, **fields: object) -> None:
    """Log `message` with `fields` as members of its JSON object."""
    if log.isEnabledFor(level):
        log.log(level, message, extra={"fields": fields})


def level_of(status: int) -> int:
    """Return how severe it is that a request is answered with `status`, which is an error.

    That something is not there is what many clients ask, and go on.
    """
    return logging.ERROR if status == 500 else logging.INFO if status == 404 else logging.WARNING


_requests = logging.getLogger("zapq.access")


def say_request(fields: dict[str, object]) -> None:
    """Log the line about a request that `fields` are of, at every level: the operator has asked for it."""
    # Made here: to find out for each line who calls, as the module does, takes as long as a whole request.
    record = logging.LogRecord(_requests.name, logging.INFO, "", 0, "request", (), None)
    record.fields = fields
    _requests.handle(record)


class Stream(Protocol):
    """What lines can be written to."""

    def write(self, text: str, /) -> object:
        """Write `text`."""

    def flush(self) -> object:
        """See that it is written."""


class Throttle:
    """Lets `rate` lines through for each cause within any second, and counts the others.

    What clients can cause without limit, they must not be able to log without limit. The next line let
    through for a cause carries `suppressed`, the number of those that were not.
    """

    def __init__(self, rate: int = LINES_PER_SECOND) -> None:
        self._rate = rate
        self._causes: dict[str, _Share] = {}

    def say(self, level: int, cause: str, message: str, **fields: object) -> None:
        """Log `message`, unless its cause has had its share. Causes are names of ours, never client data."""
        self.say_if_let_through(level, cause, message, lambda: fields)

    def say_if_let_through(
        self, level: int, cause: str, message: str, tell: Callable[[], dict[str, object]]
    ) -> None:
        """Log as `say` does; `tell` makes the fields, if the line is let through."""
        if not log.isEnabledFor(level):
            return
        share = self._causes.get(cause)
        if share is None:
            share = self._causes[cause] = _Share(deque(maxlen=self._rate))
        if share.take(time.monotonic()):
            say(level, message, **tell(), **share.take_suppressed())


@dataclass(slots=True)
class _Share:
    times: deque[float]
    """When the latest lines were let through. A rate with a reserve would allow twice as many in some second."""
    suppressed: int = 0

    def take(self, now: float) -> bool:
        """Whether one more line may be let through; it counts as suppressed if not."""
        if len(self.times) == self.times.maxlen and now - self.times[0] < 1:
            self.suppressed += 1
            return False
        self.times.append(now)
        return True

    def take_suppressed(self) -> dict[str, int]:
        """Return what a line says of those suppressed before it, and begin to count anew."""
        suppressed, self.suppressed = self.suppressed, 0
        return {"suppressed": suppressed} if suppressed else {}


class Tracebacks(logging.Filter):
    """Lets few tracebacks through: what goes wrong for one request may go wrong for each."""

    def __init__(self) -> None:
        super().__init__()
        self._share = _Share(deque(maxlen=LINES_PER_SECOND))

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether the record is logged; the next traceback that is tells how many were not."""
        if record.exc_info is None:
            return True
        if not self._share.take(time.monotonic()):
            return False
        record.fields = {**getattr(record, "fields", {}), **self._share.take_suppressed()}
        return True


class JSONLines(logging.Formatter):
    """Formats a record as one compact JSON object: time (RFC 3339, nanoseconds), level, msg, trace_id, fields."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line, without its end."""
        line: dict[str, object] = {
            "time": _rfc3339(record),
            "level": record.levelname,
            "msg": record.getMessage(),
        }
        trace_id = current_trace_id.get()
        if trace_id:
            line["trace_id"] = trace_id
        line |= getattr(record, "fields", {})
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        return _json(line)


class TextLines(logging.Formatter):
    """Formats a record for people: time, level, message, fields as name=value."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line, without its end."""
        trace_id = current_trace_id.get()
        fields = ({"trace_id": trace_id} if trace_id else {}) | getattr(record, "fields", {})
        words = [_rfc3339(record), f"{record.levelname:7}", record.getMessage()]
        words += [f"{name}={_json(value)}" for name, value in fields.items()]
        text = " ".join(words)
        return f"{text}\n{self.formatException(record.exc_info)}" if record.exc_info else text


def _rfc3339(record: logging.LogRecord) -> str:
    # A record's time is a float, exact to about 200 ns.
    seconds, fraction = divmod(int(record.created * 1e9), 1_000_000_000)
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds)) + f".{fraction:09d}Z"


def _json(value: object) -> str:
    try:
        return msgspec.json.encode(value, enc_hook=str).decode()
    except UnicodeEncodeError:
        return msgspec.json.encode(_escaped(value)).decode()


def _escaped(value: object) -> object:
    """Return `value` with lone surrogates, which is how Python keeps a path that is not UTF-8, as escapes."""
    match value:
        case bool() | int() | float() | None:
            return value
        case dict():
            return {str(_escaped(name)): _escaped(member) for name, member in value.items()}
        case list() | tuple():
            return [_escaped(member) for member in value]
        case _:
            return str(value).encode(errors="backslashreplace").decode()


_spool: Spool | None = None


def lines_dropped() -> int:
    """Return how many lines were dropped because no program read them."""
    return _spool.dropped if _spool is not None else 0


@contextmanager
def written_aside(settings: Settings) -> Iterator[None]:
    """Send log lines to standard output for the length of the block, and never wait for their reader.

    They are made in the task that logs them, and written by a thread. Lines there is no room for are dropped, and
    counted in `lines_dropped`; a line says how many once it flows again. The end of the block waits for what is
    on its way, but not for long.
    """
    global _spool
    output = sys.stdout or sys.stderr
    spool = Spool(output.fileno(), lambda dropped: say(logging.WARNING, "log lines dropped", lines=dropped))
    configure(settings, spool, for_people=output.isatty())
    _spool = spool
    try:
        yield
    finally:
        spool.close(SPOOL_SECONDS)


def configure(settings: Settings, stream: Stream, *, for_people: bool = False) -> None:
    """Send zapq's log lines, and the warnings of the libraries it runs on, to `stream`.

    With the format `auto` they are text where they are `for_people`, and else JSON.
    """
    as_text = for_people if settings.log_format == "auto" else settings.log_format == "text"
    handler = logging.StreamHandler(stream)
    handler.addFilter(Tracebacks())
    handler.setFormatter(TextLines() if as_text else JSONLines())
    logging.basicConfig(handlers=[handler], level=logging.WARNING, force=True)
    # A log whose reader is gone is no reason to fail, nor to print tracebacks elsewhere.
    logging.raiseExceptions = False
    log.setLevel(settings.log_level.upper())
