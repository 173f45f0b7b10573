"""Options that are durations are written as HTTP and the flags of the server take them: 10, 2.5 or 5m."""

from __future__ import annotations

import click
import pytest
import trio

from tests.command.test_json import commands
from tests.support.process import assert_one_line
from tests.support.typed import TypeIn, typed
from zapq.command.options import Duration
from zapq.service.named_queue import NamedQueue

DURATIONS = {
    (name, option.opts[0])
    for name, command in commands().items()
    for option in command.params
    if isinstance(option.type, Duration)
}


def test_no_option_takes_seconds_in_another_way() -> None:
    for name, command in commands().items():
        for option in command.params:
            assert not isinstance(option.type, click.types.FloatParamType), (name, option.opts)
    named = {(name, option) for name, option in DURATIONS if name != "queue set"}
    assert named == {
        ("push", "--delay"),
        ("push", "--ttl"),
        ("pop", "--wait"),
        ("top", "--every"),
        ("bench", "--seconds"),
        ("forward", "--timeout"),
        ("forward", "--visibility"),
    }
    assert DURATIONS - named == {("queue set", f"--{name}") for name in ("visibility", "ttl", "retention")}


@pytest.mark.parametrize(("command", "option"), sorted(DURATIONS))
def test_what_is_no_duration_is_the_same_one_line(command: str, option: str) -> None:
    for wrong in ("5x", "1e3", "-1", "nan"):
        done = typed(*command.split(), f"{option}={wrong}", "emails", "x")
        expected = "give seconds, or a number with s, m, h or d behind it, such as 10, 2.5 or 5m."
        assert_one_line(done, 2, f"Invalid value for '{option}': '{wrong}': {expected}")


def test_one_that_is_too_long_is_told_the_range() -> None:
    assert_one_line(typed("pop", "emails", "--wait", "2m"), 2, "'2m': give 0 to 60 seconds.")
    assert_one_line(typed("top", "--every", "0"), 2, "'0': give 0.1 to 3600 seconds.")


async def test_a_message_is_sent_with_durations(type_in: TypeIn, emails: NamedQueue) -> None:
    assert (await type_in("push", "emails", "x", "--delay", "5m", "--ttl", "1.5h")).returncode == 0
    [message] = await emails.peek(state="delayed")
    assert message.due is not None
    assert 200 < message.due - trio.current_time() <= 300
