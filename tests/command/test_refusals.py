"""What commands say of a refusal: the facts of the problem, and commands in place of requests."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from tests.support.process import assert_one_line
from tests.support.typed import TypeIn
from zapq.command.http import as_command
from zapq.errors import BY_PROBLEM, BatchTooLarge, MessageTooLarge, no_letter, no_queue_to_go_to
from zapq.service.named_queue import NamedQueue
from zapq.settings import Settings
from zapq.testing import ZapqServer

REQUEST = re.compile(r"\b(GET|PUT|POST|PATCH|DELETE)\b|Retry-After")


def test_no_refusal_names_a_request_for_which_there_is_a_command() -> None:
    said = {name: as_command(each().detail, 7) for name, each in BY_PROBLEM.items()}
    # The server's own list, of which no command asks.
    assert {name for name, text in said.items() if REQUEST.search(text)} == {"problem-not-found"}
    assert said["queue-not-found"].endswith("make it with `zapq queue set NAME`.")
    assert said["snapshot-not-found"].endswith("`zapq snapshot ls` lists those there are.")
    assert said["message-not-found"].endswith("`zapq queue peek NAME` lists the messages it holds.")
    assert said["too-many-waiters"].endswith("Send this one again in 7 s.")
    assert as_command(no_queue_to_go_to("a.b").detail, 0).endswith("Make it with `zapq queue set a.b`.")
    assert as_command(no_letter().detail, 0).endswith(
        "`zapq message show` prints it: state and failed_in say what it is."
    )


def test_a_body_that_is_not_read_to_its_end_is_refused_with_the_limit() -> None:
    assert MessageTooLarge(max_bytes=9).detail.startswith("The message is larger than the 9 bytes that the server")
    assert BatchTooLarge(max_bytes=9).detail.startswith("The batch is larger than the 9 bytes that the server")


async def test_a_queue_that_is_not_there_is_said_also_after_a_wait(type_in: TypeIn, emails: NamedQueue) -> None:
    missing = (
        "There is no queue 'nope'; `zapq queue ls` lists those there are. Send it a message to make it, or make it"
        " with `zapq queue set nope`."
    )
    for wait in ("0", "0.01s"):
        for ack in ([], ["--ack"]):
            assert_one_line(await type_in("pop", "nope", "--wait", wait, *ack), 3, f"zapq: {missing}")
    await emails.enqueue(b"x")
    assert (await type_in("pop", "emails", "--wait", "0.01")).stdout == "x"
    done = await type_in("pop", "emails", "--wait", "0.01")
    assert (done.returncode, done.stdout, done.stderr) == (3, "", "")


class TestLimits:
    @pytest.fixture
    def zapq_settings(self, zapq_settings: Settings) -> Settings:
        return replace(zapq_settings, max_msgs=3, max_bytes=100, max_message_bytes=50, max_queues=3)

    async def test_the_figures_are_named(
        self, type_in: TypeIn, zapq_server: ZapqServer, emails: NamedQueue
    ) -> None:
        large = "The message has 51 bytes, and the server accepts 50. Split it, or raise --max-message-bytes."
        assert_one_line(await type_in("push", "emails", "--lines", stdin="x" * 51), 1, f"zapq: {large}")
        assert_one_line(await type_in("push", "emails", "x" * 51), 1, f"zapq: {large}")
        await emails.enqueue(b"x" * 50)
        await emails.enqueue(b"x" * 25)
        full = "There is no room: the queue or the server holds 75 of 100 bytes (max_bytes or --max-bytes)."
        assert_one_line(await type_in("push", "emails", "x" * 30), 1, f"zapq: {full} This request stored nothing.")
        await emails.enqueue(b"x")
        full = "There is no room: the server holds 3 of 3 messages (--max-msgs). This request stored nothing."
        done = await type_in("push", "emails", "x")
        assert_one_line(done, 1, f"zapq: {full}")
        assert re.search(r"Send it again in [0-9]+ s\.\n\Z", done.stderr)
        await zapq_server.service.change_settings("emails", max_messages=3)
        assert (await type_in("queue", "set", "other")).stdout == "other: made\n"
        many = "The server has as many queues as --max-queues allows: 3. Delete a queue, or raise --max-queues."
        assert_one_line(await type_in("queue", "set", "more"), 1, f"zapq: {many}")
