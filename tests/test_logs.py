"""A log line is one JSON object on one line, and clients cannot flood the log."""

from __future__ import annotations

import io
import json
import logging
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from zapq import logs
from zapq.settings import Settings


@pytest.fixture(autouse=True)
def logging_as_it_was() -> Iterator[None]:
    root = logging.getLogger()
    before = root.level, logs.log.level, logging.raiseExceptions
    yield
    root.handlers = [each for each in root.handlers if not isinstance(each.formatter, OURS)]
    level, ours, logging.raiseExceptions = before
    # Setting the attribute would leave what loggers remember of being enabled as it is.
    root.setLevel(level)
    logs.log.setLevel(ours)


OURS = (logs.JSONLines, logs.TextLines)


def configured(settings: Settings, *, for_people: bool = False) -> io.StringIO:
    """Return what `configure` makes log lines go to; pytest's handlers, which it would close, step aside."""
    stream, root = io.StringIO(), logging.getLogger()
    others, root.handlers = root.handlers, []
    logs.configure(settings, stream, for_people=for_people)
    root.handlers += others
    return stream


@pytest.fixture
def output() -> io.StringIO:
    return configured(Settings(log_level="debug"))


def lines(output: io.StringIO) -> list[dict[str, Any]]:
    return [msgspec.json.decode(line) for line in output.getvalue().splitlines()]


def record(message: str, created: float = 0.0, **fields: object) -> logging.LogRecord:
    made = logging.makeLogRecord({"msg": message, "levelname": "INFO", "fields": fields})
    made.created = created
    return made


def test_a_line_holds_time_level_message_trace_and_fields(output: io.StringIO) -> None:
    token = logs.current_trace_id.set("7-abc")
    logs.say(logging.WARNING, "refused", status=429, reason="full")
    logs.current_trace_id.reset(token)
    [line] = lines(output)
    assert list(line) == ["time", "level", "msg", "trace_id", "status", "reason"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}Z", line.pop("time"))
    assert line == {"level": "WARNING", "msg": "refused", "trace_id": "7-abc", "status": 429, "reason": "full"}


def test_without_a_request_there_is_no_trace_id(output: io.StringIO) -> None:
    logs.say(logging.INFO, "said")
    assert list(lines(output)[0]) == ["time", "level", "msg"]


@pytest.mark.parametrize(
    ("created", "text"),
    [
        (0.0, "1970-01-01T00:00:00.000000000Z"),
        (1.5, "1970-01-01T00:00:01.500000000Z"),
        (951827696.5, "2000-02-29T12:34:56.500000000Z"),
    ],
)
def test_the_time_is_when_the_record_was_made(created: float, text: str) -> None:
    formatted = logs.JSONLines().format(record("said", created))
    assert msgspec.json.decode(formatted) == {"time": text, "level": "INFO", "msg": "said"}
    assert logs.TextLines().format(record("said", created)).startswith(text + " ")


def test_the_line_is_compact() -> None:
    formatted = logs.JSONLines().format(record("said", a=[True, None]))
    assert formatted == '{"time":"1970-01-01T00:00:00.000000000Z","level":"INFO","msg":"said","a":[true,null]}'


EXOTIC = [
    "two\nlines",
    "\r",
    "\x1b[31m",
    'a "quote" and a \\',
    "\0",
    "caf\xe9",
    "\U0001f600",
    object(),
    None,
    1.5,
    float("nan"),
    float("inf"),
    2**70,
    b"\xff\n",
    Path("/a\nb"),
    ValueError("broken\n"),
    {1: "one", (2, "\n"): {3}},
    ("\n", ["\n"]),
    # How Python keeps file names that are not UTF-8.
    "/data/\udcff",
    Path("/data/\udcff"),
    ["\udcff", {"\udcff": ("\udcff", 1, 1.5, None, True)}],
]


@pytest.mark.parametrize("value", EXOTIC, ids=[re.sub(" at 0x.*>", ">", ascii(value)) for value in EXOTIC])
@pytest.mark.parametrize("log_format", ["json", "text"])
def test_no_value_breaks_its_line_or_is_lost(value: object, log_format: str) -> None:
    stream = configured(Settings(log_format=log_format))
    logs.say(logging.INFO, "said", value=value)
    text = stream.getvalue()
    assert text.endswith("\n")
    assert not re.search(r"[\x00-\x1f]", text.removesuffix("\n"))
    text.encode()
    if log_format == "json":
        assert list(json.loads(text)) == ["time", "level", "msg", "value"]
    else:
        json.loads(text.partition("value=")[2])


def test_what_is_not_utf_8_is_shown_escaped_and_the_rest_as_it_is(output: io.StringIO) -> None:
    logs.say(logging.INFO, "listening", addr="unix:/\udcff", tls=False, max_msgs=5)
    [line] = lines(output)
    assert (line["addr"], line["tls"], line["max_msgs"]) == ("unix:/\\udcff", False, 5)


def test_a_message_of_somebody_else_stays_on_its_line(output: io.StringIO) -> None:
    logging.getLogger("library").warning("one\ntwo %s", "\x1b\n")
    assert output.getvalue().count("\n") == 1
    assert lines(output)[0]["msg"] == "one\ntwo \x1b\n"


def test_an_exception_stays_on_its_line(output: io.StringIO) -> None:
    try:
        raise ValueError("broken")
    except ValueError:
        logs.log.exception("failed")
    assert output.getvalue().count("\n") == 1
    assert "ValueError: broken" in lines(output)[0]["error"]


def test_text_is_for_people() -> None:
    token = logs.current_trace_id.set("7-abc")
    formatted = logs.TextLines().format(record("said", status=429, reason="too\nmany"))
    logs.current_trace_id.reset(token)
    assert formatted == (
        '1970-01-01T00:00:00.000000000Z INFO    said trace_id="7-abc" status=429 reason="too\\nmany"'
    )


@pytest.mark.parametrize(
    ("log_format", "for_people", "text"),
    [
        ("auto", True, True),
        ("auto", False, False),
        ("json", True, False),
        ("text", False, True),
    ],
)
def test_lines_are_text_where_people_read_them(log_format: str, for_people: bool, text: bool) -> None:
    stream = configured(Settings(log_format=log_format), for_people=for_people)
    logs.log.warning("said")
    assert stream.getvalue().startswith("{") is not text


def test_that_something_is_not_there_is_no_warning() -> None:
    levels = {status: logging.getLevelName(logs.level_of(status)) for status in (404, 429, 500, 503)}
    assert levels == {404: "INFO", 429: "WARNING", 500: "ERROR", 503: "WARNING"}


def test_text_shows_a_traceback_as_people_know_it() -> None:
    stream = configured(Settings(log_format="text"))
    try:
        raise ValueError("broken")
    except ValueError:
        logs.log.exception("failed")
    first, *rest = stream.getvalue().splitlines()
    assert first.endswith("ERROR   failed")
    assert (rest[0], rest[-1]) == ("Traceback (most recent call last):", "ValueError: broken")


@pytest.mark.parametrize(
    ("level", "ours"),
    [
        ("debug", ["debug", "info", "warning", "error"]),
        ("info", ["info", "warning", "error"]),
        ("warning", ["warning", "error"]),
        ("error", ["error"]),
    ],
)
def test_the_level_is_ours_and_libraries_only_warn(level: str, ours: list[str]) -> None:
    stream = configured(Settings(log_level=level))
    for name in ("debug", "info", "warning", "error"):
        logs.say(getattr(logging, name.upper()), name)
        logging.getLogger("library").log(getattr(logging, name.upper()), f"library {name}")
    said = [line["msg"] for line in lines(stream)]
    assert [message for message in said if not message.startswith("library")] == ours
    assert [message for message in said if message.startswith("library")] == ["library warning", "library error"]


def test_a_log_nobody_reads_any_more_is_no_reason_to_fail(
    output: io.StringIO, capsys: pytest.CaptureFixture[str]
) -> None:
    output.close()
    logs.say(logging.ERROR, "said to nobody")
    assert capsys.readouterr() == ("", "")


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[float]]:
    """Its one element is the time of `time.monotonic`."""
    now = [100.0]
    with monkeypatch.context() as patch:
        patch.setattr(time, "monotonic", lambda: now[0])
        yield now


def test_a_cause_has_its_share_of_lines_and_the_rest_is_counted(output: io.StringIO, clock: list[float]) -> None:
    throttle = logs.Throttle()
    for _ in range(logs.LINES_PER_SECOND + 5):
        throttle.say(logging.INFO, "one", "flood")
    throttle.say(logging.INFO, "another", "quiet")
    clock[0] += 1
    throttle.say(logging.INFO, "one", "flood")
    throttle.say(logging.INFO, "one", "flood")
    said = [line["msg"] for line in lines(output)]
    assert said == ["flood"] * logs.LINES_PER_SECOND + ["quiet", "flood", "flood"]
    assert [line.get("suppressed") for line in lines(output)[-3:]] == [None, 5, None]


def test_no_second_has_more_than_its_share_and_none_is_saved_up(output: io.StringIO, clock: list[float]) -> None:
    throttle = logs.Throttle()

    def let_through(tries: int) -> int:
        before = len(lines(output))
        for _ in range(tries):
            throttle.say(logging.INFO, "one", "flood")
        return len(lines(output)) - before

    half = logs.LINES_PER_SECOND // 2
    assert let_through(half) == half
    clock[0] += 0.5
    assert let_through(100) == half
    clock[0] += 0.25
    assert let_through(100) == 0
    clock[0] += 0.25
    assert let_through(100) == half
    clock[0] += 3600
    assert let_through(100) == logs.LINES_PER_SECOND
    clock[0] += 0.9
    assert let_through(1) == 0


def test_tracebacks_have_a_share_too_whoever_logs_them(output: io.StringIO, clock: list[float]) -> None:
    def fail() -> None:
        try:
            raise RuntimeError("a mistake")
        except RuntimeError:
            logging.getLogger("hypercorn.error").exception("Error in ASGI Framework")

    for _ in range(logs.LINES_PER_SECOND + 5):
        fail()
    assert len(lines(output)) == logs.LINES_PER_SECOND
    clock[0] += 1
    fail()
    assert lines(output)[-1]["suppressed"] == 5
    assert "RuntimeError: a mistake" in lines(output)[-1]["error"]


def test_lines_below_the_level_take_no_share(clock: list[float]) -> None:
    stream = configured(Settings())
    throttle = logs.Throttle()
    for _ in range(100):
        throttle.say(logging.DEBUG, "one", "unseen")
    throttle.say(logging.INFO, "one", "seen")
    [line] = lines(stream)
    assert line["msg"] == "seen"
    assert "suppressed" not in line


def test_a_program_that_embeds_zapq_keeps_its_own_logging(tmp_path: Path) -> None:
    code = f"""
import logging, trio, zapq
before = logging.raiseExceptions
async def main():
    async with zapq.open_service(zapq.Settings(data_dir={str(tmp_path)!r})) as queue:
        await queue.enqueue(b"x")
        await queue.snapshot("a.json")
        await queue.dequeue()
trio.run(main)
root = logging.getLogger()
assert (root.handlers, root.level) == ([], logging.WARNING)
for each in logging.Logger.manager.loggerDict.values():
    if isinstance(each, logging.Logger):
        assert (each.handlers, each.level, each.propagate) == ([], logging.NOTSET, True), each
assert logging.raiseExceptions is before
"""
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (shown.returncode, shown.stdout, shown.stderr) == (0, "", "")
