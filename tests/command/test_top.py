"""zapq top: rates from two polls, on a terminal and elsewhere."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import trio

from tests.support.process import assert_one_line
from tests.support.typed import TypeIn
from zapq.command import top
from zapq.command.http import Failed
from zapq.core.queue_settings import QueueSettings
from zapq.service.named_queue import NamedQueue
from zapq.testing import ZapqServer


class Clock:
    """Time that passes when `top` sleeps; meanwhile `between`, if anything, is done in the server's thread."""

    def __init__(self) -> None:
        self.now = 100.0
        self.between: list[Callable[[], Awaitable[None]]] = []

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        if self.between:
            trio.from_thread.run(self.between.pop(0))
        else:
            raise KeyboardInterrupt


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(top, "time", clock)
    return clock


def found(**counts: Any) -> dict[str, Any]:
    held = {"ready": 0, "delayed": 0, "leased": 0, "waiting": 0, "enqueued": 0, "dequeued": 0, "acked": 0}
    return {"name": "q", "paused": False, **held, **counts}


def test_rates_are_what_has_changed_between_two_polls() -> None:
    row = top.compare(found(enqueued=10), found(enqueued=30, dequeued=4, acked=6, ready=20), 2.0)
    assert (row.in_rate, row.out_rate, row.ready, row.oldest) == (10.0, 5.0, 20, None)
    assert top.compare(None, found(enqueued=30), 2.0).in_rate is None
    # The server was started again.
    assert top.compare(found(enqueued=30), found(enqueued=3), 2.0).in_rate is None
    assert top.compare(found(), found(), 0.0).in_rate is None
    assert top.compare(found(), found(ready=1, oldest_ready_age_seconds=12.5), 2.0).oldest == 12.5
    assert top.compare(found(), found(oldest_ready_age_seconds=0), 2.0).oldest is None


async def test_tables_follow_each_other_where_there_is_no_terminal(
    type_in: TypeIn, clock: Clock, emails: NamedQueue, zapq_server: ZapqServer
) -> None:
    await emails.enqueue(b"x")
    await zapq_server.service.configure("idle", QueueSettings())

    async def send() -> None:
        await emails.enqueue_many([b"x"] * 10)
        await emails.dequeue()

    clock.between = [send, emails.pause]
    done = await type_in("top", "--count", "2", "emails", "d*")
    first, second = done.stdout.split("\n\n")
    assert (done.returncode, done.stderr) == (0, "")
    assert [line.split() for line in first.splitlines()] == [
        ["queue", "ready", "delayed", "leased", "waiting", "oldest", "in/s", "out/s"],
        ["emails", "10", "0", "0", "0", age_in(first, "emails"), "5.0", "0.5"],
        ["default", "0", "0", "0", "0", age_in(first, "default"), "0.0", "0.0"],
    ]
    assert "emails (paused)" in second
    assert "\x1b" not in done.stdout


def age_in(text: str, queue: str) -> str:
    """Return the age in the line of a queue: it is the server's, and time passes there."""
    [line] = [line for line in text.splitlines() if line.startswith(queue)]
    return line.split()[5]


async def test_json_is_a_line_for_each_poll(type_in: TypeIn, clock: Clock, zapq_server: ZapqServer) -> None:
    async def send() -> None:
        await zapq_server.service.queue("new").enqueue(b"x")

    clock.between = [send, send]
    done = await type_in("top", "--json", "--every", "0.5", "--sort", "name")
    assert done.returncode == 130
    polls = [json.loads(line) for line in done.stdout.splitlines()]
    assert [[each["queue"] for each in poll] for poll in polls] == [["default", "new"]] * 2
    # At the first poll it was not there.
    assert [poll[1]["in_rate"] for poll in polls] == [None, 2.0]


async def test_on_a_terminal_the_table_is_renewed_in_place(
    type_in: TypeIn, clock: Clock, emails: NamedQueue, zapq_server: ZapqServer
) -> None:
    await emails.enqueue_many([b"x"] * 4)
    await emails.pause()
    await zapq_server.service.queue("few").enqueue(b"x")

    async def send() -> None:
        await emails.enqueue_many([b"x"] * 4)

    clock.between = [send]
    done = await type_in("top", terminal=True, environ={"COLUMNS": "100", "LINES": "20"})
    assert (done.returncode, done.stderr) == (130, "")
    assert done.stdout.startswith("\x1b[?1049h\x1b[?25l")
    assert done.stdout.endswith("\x1b[?25h\x1b[?1049l")
    _, first, second = done.stdout.split("\x1b[H")
    assert "The rates come with the second poll." in first
    assert "3 queues  9 ready  2.0 in/s  0.0 out/s" in second
    [line] = [line for line in second.splitlines() if "emails" in line]
    assert line.startswith("\x1b[33memails (paused)")
    assert f"  {chr(0x2588) * 12}\x1b[0m" in line
    done = await type_in(
        "top", "--count", "1", terminal=True, environ={"COLUMNS": "30", "LINES": "6", "NO_COLOR": "1"}
    )
    assert done.returncode == 0
    assert "and 2 more" in done.stdout
    assert "\x1b[33m" not in done.stdout
    lines = done.stdout.partition("\x1b[H")[2].replace("\x1b[K", "").replace("\x1b[J", "").split("\n")
    assert max(len(line.partition("\x1b")[0]) for line in lines) == 30


async def test_a_server_that_is_away_is_said_and_waited_for(
    type_in: TypeIn, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    poll, failing = top._poll, [False, True, False]

    def poll_or_fail(*arguments: Any) -> Any:
        if failing.pop(0):
            raise Failed("http://x: Connection refused.")
        return poll(*arguments)

    async def nothing() -> None: ...

    monkeypatch.setattr(top, "_poll", poll_or_fail)
    clock.between = [nothing, nothing]
    done = await type_in("top", "--count", "3", terminal=True)
    assert done.returncode == 0
    _, _, second, third = done.stdout.split("\x1b[H")
    assert "\x1b[31mhttp://x: Connection refused.\x1b[0m" in second
    assert "refused" not in third


async def test_a_server_that_is_not_there_is_one_line(type_in: TypeIn) -> None:
    done = await type_in("top", environ={"ZAPQ_URL": "http://127.0.0.1:1"})
    assert_one_line(done, 1, "Connection refused.")


def test_bars_show_what_is_there() -> None:
    assert [len(top.bar(value, 1000)) for value in (0, 1, 500, 1000)] == [0, 1, 6, 12]
