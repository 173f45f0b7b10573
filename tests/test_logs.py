"""A log line is one JSON object on one line, and clients cannot flood the log."""

from __future__ import annotations

import io
import logging
import time
from collections.abc import Iterator

import msgspec
import pytest

from zapq import logs
from zapq.settings import Settings


@pytest.fixture
def output() -> Iterator[io.StringIO]:
    """What `configure` writes to; the state of logging is put back afterwards."""
    root = logging.getLogger()
    before = root.handlers[:], root.level, logs.log.level, logging.raiseExceptions
    stream = io.StringIO()
    logs.configure(Settings(log_level="debug"), stream)
    yield stream
    root.handlers[:], root.level, logs.log.level, logging.raiseExceptions = before


def test_a_line_holds_time_level_message_trace_and_fields(output: io.StringIO) -> None:
    token = logs.current_trace_id.set("7-abc")
    logs.say(logging.WARNING, "refused", status=429, reason="full")
    logs.current_trace_id.reset(token)
    line = msgspec.json.decode(output.getvalue())
    assert line.pop("time").endswith("Z")
    assert line == {"level": "WARNING", "msg": "refused", "trace_id": "7-abc", "status": 429, "reason": "full"}
    assert list(msgspec.json.decode(output.getvalue()))[:4] == ["time", "level", "msg", "trace_id"]


@pytest.mark.parametrize("value", ["two\nlines", "\x1b[31m", 'a "quote"', "\0", "caf\xe9", object(), None, 1.5])
def test_no_value_breaks_out_of_its_line(output: io.StringIO, value: object) -> None:
    logs.say(logging.INFO, "said", value=value)
    assert output.getvalue().count("\n") == 1
    assert "\x1b" not in output.getvalue()
    assert "value" in msgspec.json.decode(output.getvalue())


def test_an_exception_stays_on_its_line(output: io.StringIO) -> None:
    try:
        raise ValueError("broken")
    except ValueError:
        logs.log.exception("failed")
    assert output.getvalue().count("\n") == 1
    assert "ValueError: broken" in msgspec.json.decode(output.getvalue())["error"]


def test_a_cause_has_its_share_of_lines_and_the_rest_is_counted(
    output: io.StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    throttle = logs.Throttle()
    for _ in range(logs.LINES_PER_SECOND + 5):
        throttle.say(logging.INFO, "one", "flood")
    throttle.say(logging.INFO, "another", "quiet")
    now += 1
    throttle.say(logging.INFO, "one", "flood")
    lines = [msgspec.json.decode(line) for line in output.getvalue().splitlines()]
    assert [line["msg"] for line in lines] == ["flood"] * logs.LINES_PER_SECOND + ["quiet", "flood"]
    assert lines[-1]["suppressed"] == 5
    assert "suppressed" not in lines[-2]
