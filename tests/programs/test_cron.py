"""`zapq cron` sends each message at its time, once, however many of it run."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from tests.support.process import assert_one_line
from tests.support.serving import patient_clock as patient_clock
from tests.support.typed import typed
from zapq.client import open_client
from zapq.errors import Draining, InvalidParameter, KeyReused, Unreachable, ZapqError
from zapq.programs.cron import Cron
from zapq.programs.crontab import Entry, parse_crontab
from zapq.testing import ZapqServer

BEGIN = datetime(2027, 1, 15, 8, 0, 30, tzinfo=UTC).timestamp()
EVERY_MINUTE = '[cron.minutely]\ncron = "* * * * *"\nqueue = "jobs"\nbody = "x"\n'


def clock() -> float:
    """The Unix time, by the virtual clock."""
    return BEGIN + trio.current_time()


def due(entry: Entry, since: str, number: int) -> list[str]:
    after = datetime.fromisoformat(since).timestamp()
    return [
        datetime.fromtimestamp(tick, UTC).isoformat(timespec="minutes")
        for tick in islice(entry.ticks(after), number)
    ]


def entry(more: str, cron: str = "30 2 * * *") -> Entry:
    [found] = parse_crontab(f'[cron.a]\ncron = "{cron}"\nqueue = "jobs"\n{more}')
    return found


def test_what_is_said_of_an_entry() -> None:
    found = entry(
        'body = "h\u00f6"\ncontent_type = "text/plain"\npriority = 3\ndelay = 1.5\nttl = 60\n'
        'headers = {Order = "7"}'
    )
    assert (found.name, found.queue, found.body) == ("a", "jobs", "h\u00f6".encode())
    assert found.how == {
        "content_type": "text/plain",
        "priority": 3,
        "delay": 1.5,
        "ttl": 60,
        "headers": {"order": "7"},
    }
    assert found.key(BEGIN) == "cron-a-2027-01-15T08:00:30Z"
    assert found.headers(BEGIN) == {"order": "7", "cron-name": "a", "cron-tick": "2027-01-15T08:00:30Z"}


def test_a_time_that_is_skipped_in_spring_and_one_that_comes_twice_in_autumn() -> None:
    berlin = entry('timezone = "Europe/Berlin"')
    # 02:30 is not there on 28 March 2027: it is sent as the clocks are put forward, at 03:00.
    assert due(berlin, "2027-03-27T12:00+00:00", 2) == ["2027-03-28T01:00+00:00", "2027-03-29T00:30+00:00"]
    # It is there twice on 31 October: it is sent once.
    assert due(berlin, "2027-10-30T12:00+00:00", 2) == ["2027-10-31T00:30+00:00", "2027-11-01T01:30+00:00"]
    # Lord Howe Island puts its clocks by half an hour: 02:15 is not there on 3 October, 01:45 twice on 4 April.
    late, early = (entry('timezone = "Australia/Lord_Howe"', cron) for cron in ("15 2 * * *", "45 1 * * *"))
    assert due(late, "2027-10-02T00:00+00:00", 2) == ["2027-10-02T15:30+00:00", "2027-10-03T15:15+00:00"]
    assert due(early, "2027-04-03T00:00+00:00", 2) == ["2027-04-03T14:45+00:00", "2027-04-04T15:15+00:00"]
    often = entry('timezone = "Australia/Lord_Howe"', "*/30 * * * *")
    halves = ["14:30", "15:00", "15:30", "16:00"]
    for day in ("2027-10-02", "2027-04-03"):
        assert due(often, f"{day}T14:00+00:00", 4) == [f"{day}T{each}+00:00" for each in halves]
    assert due(entry(""), "2027-03-27T12:00+00:00", 1) == ["2027-03-28T02:30+00:00"]


@pytest.mark.parametrize(
    ("zone", "cron", "since"),
    [
        ("Europe/Berlin", "30 2 * * *", "2027-10-31T02:10:30+01:00"),
        ("America/New_York", "*/15 1 * * *", "2027-11-07T01:05:00-05:00"),
        ("Australia/Lord_Howe", "45 1 * * *", "2027-04-04T01:35:00+10:30"),
    ],
)
async def test_in_the_hour_that_comes_twice_nothing_is_due_that_is_past(
    autojump_clock: MockClock, zone: str, cron: str, since: str
) -> None:
    began = datetime.fromisoformat(since).timestamp()
    twice = entry(f'timezone = "{zone}"', cron)
    assert next(twice.ticks(began)) > began
    said: list[str] = []
    with trio.move_on_after(60):
        await Cron(Queues(), [twice], say=said.append, clock=lambda: began + trio.current_time()).run()  # type: ignore[arg-type]
    assert not said


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "give a table"),
        ("x = 1", "give a table"),
        ("cron = 1", "give a table"),
        ("[cron]\na = 1", r"\[cron.a\]: an entry is a table"),
        ('[cron."a b"]\ncron = "* * * * *"', "called by 1 to 80"),
        ('[cron.a]\nqueue = "q"', "cron is missing"),
        ('[cron.a]\ncron = "* * * * *"', "queue is missing"),
        ('[cron.a]\ncron = "* * * * *"\nqueue = "../q"', "queue must be 1 to 80 .* begin with a dot$"),
        ('[cron.a]\ncron = "61 * * * *"\nqueue = "q"', "its minute is not valid$"),
        ('[cron.a]\ncron = "* * *"\nqueue = "q"', r"give five fields \(minute, hour"),
        ('[cron.a]\ncron = "@daily"\nqueue = "q"', "give five fields"),
        ('[cron.a]\ncron = "0 0 30 2 *"\nqueue = "q"', "its day of month is not valid|never"),
        ('[cron.a]\ncron = 5\nqueue = "q"', "cron must be text"),
        (
            '[cron.a]\ncron = "* * * * *"\nqueue = "q"\nttl = true',
            "ttl must be a number of seconds or null, not true or false$",
        ),
        ('[cron.a]\ncron = "* * * * *"\nqueue = "q"\nttl = 0', "ttl must be more than 0 seconds$"),
        (
            '[cron.a]\ncron = "* * * * *"\nqueue = "q"\ndelay = "5m"',
            "delay must be a number of seconds, not text$",
        ),
        ('[cron.a]\ncron = "* * * * *"\nqueue = "q"\npriority = 10', "priority must be at most 9$"),
        ('[cron.a]\ncron = "* * * * *"\nqueue = "q"\ntimezone = "Mars/North"', "no timezone 'Mars/North'"),
        ('[cron.a]\ncron = "* * * * *"\nqueue = "q"\ntimezone = "../x"', "no timezone"),
        ('[cron.a]\ncron = "* * * * *"\nqueue = "q"\nheaders = 5', "headers must be"),
        ('[cron.a]\ncron = "* * * * *"\nqueue = "q"\nheaders = {"a b" = "x"}', "name of a header"),
        ('[cron.a]\ncron = "* * * * *"\nqueue = "q"\nbodyy = "x"', "bodyy is not known; give cron"),
        ("[cron.a", "Expected|expected"),
    ],
)
def test_a_file_that_is_wrong_is_refused(text: str, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        parse_crontab(text)


async def test_three_of_them_send_each_message_once(zapq_server: ZapqServer, patient_clock: MockClock) -> None:
    jobs = zapq_server.service.queue("jobs")
    async with AsyncExitStack() as stack:
        nursery = await stack.enter_async_context(trio.open_nursery())
        for _ in range(3):
            client = await stack.enter_async_context(open_client(zapq_server.url))
            nursery.start_soon(Cron(client, parse_crontab(EVERY_MINUTE), clock=clock).run)
        await trio.sleep(4 * 60)
        nursery.cancel_scope.cancel()
    messages = await jobs.dequeue_many(100)
    assert [dict(each.headers)["cron-tick"] for each in messages] == [
        f"2027-01-15T08:0{minute}:00Z" for minute in (1, 2, 3, 4)
    ]
    assert {each.body for each in messages} == {b"x"}


class Queues:
    """What stands for a client: takes what is put, or raises what it is told to."""

    def __init__(self, fail: Callable[[], ZapqError | None] = lambda: None) -> None:
        self.retry: Any = self
        self.keys: list[str] = []
        self.fail = fail
        self.takes = 0.0
        """Seconds."""

    def pause(self, error: ZapqError, failures: int) -> float:
        return 10.0

    async def put(self, queue: str, body: bytes, *, key: str, **_: object) -> None:
        error = self.fail()
        if error is not None:
            raise error
        await trio.sleep(self.takes)
        self.keys.append(key)


async def sent(queues: Any, minutes: float, said: list[str], wall: Callable[[], float] = clock) -> list[str]:
    with trio.move_on_after(minutes * 60):
        await Cron(queues, parse_crontab(EVERY_MINUTE), say=said.append, clock=wall).run()
    return [each.removeprefix("cron-minutely-2027-01-15T") for each in queues.keys]


async def test_a_server_that_is_away_for_a_while_misses_nothing(autojump_clock: MockClock) -> None:
    queues, said = Queues(lambda: Unreachable() if trio.current_time() < 150 else None), list[str]()
    assert sorted(await sent(queues, 4, said)) == ["08:01:00Z", "08:02:00Z", "08:03:00Z", "08:04:00Z"]
    # An operator who gave a wrong URL need not wait for four minutes to read it.
    assert said == [f"minutely: tried for up to 4 minutes: {Unreachable().detail}"]


async def test_what_cannot_be_sent_in_time_is_given_up_and_said(autojump_clock: MockClock) -> None:
    queues, said = Queues(Draining), list[str]()
    assert await sent(queues, 6, said) == []
    assert said[0].startswith("minutely: tried for up to 4 minutes: The server is draining")
    assert said[1].startswith("minutely: not sent: The server is draining")


async def test_nothing_is_sent_when_the_server_may_have_forgotten_the_key(autojump_clock: MockClock) -> None:
    queues, said = Queues(lambda: Unreachable() if trio.current_time() < 260 else None), list[str]()
    queues.takes = 100.0  # a connection that nobody accepts, five times
    assert sorted(await sent(queues, 7, said)) == ["08:03:00Z", "08:04:00Z", "08:05:00Z"]
    assert said[1:] == ["minutely: not sent: the server has not answered in time"] * 2


@pytest.mark.parametrize(
    ("error", "line"),
    [(KeyReused(), "another program"), (InvalidParameter("Nonsense."), "minutely: not sent: Nonsense.")],
)
async def test_what_would_fail_again_is_not_sent_again(
    autojump_clock: MockClock, error: ZapqError, line: str
) -> None:
    said: list[str] = []
    assert await sent(Queues(lambda: error.anew()), 1, said) == []
    assert len(said) == 1
    assert line in said[0]


async def test_what_was_due_while_the_machine_slept_is_missed_and_said(autojump_clock: MockClock) -> None:
    def wall() -> float:
        return clock() + (3600 if trio.current_time() > 80 else 0)

    queues, said = Queues(), list[str]()
    assert await sent(queues, 4, said, wall) == ["08:01:00Z", "09:03:00Z", "09:04:00Z"]
    assert said == ["minutely: missed what was due from 2027-01-15T08:02:00Z on"]


async def test_while_the_clock_is_set_back_a_little_nothing_is_sent_twice(autojump_clock: MockClock) -> None:
    def wall() -> float:
        return clock() - (120 if trio.current_time() > 80 else 0)

    queues, said = Queues(), list[str]()
    assert await sent(queues, 5, said, wall) == ["08:01:00Z", "08:02:00Z", "08:03:00Z"]
    assert said == []


async def test_a_key_is_forgotten_all_the_same_when_the_clock_is_set_back(autojump_clock: MockClock) -> None:
    def wall() -> float:
        return clock() - (3600 if trio.current_time() > 80 else 0)

    queues, said = Queues(lambda: Unreachable() if trio.current_time() < 400 else None), list[str]()
    assert await sent(queues, 20, said, wall) == []
    assert [each for each in said if "not sent" in each] == [f"minutely: not sent: {Unreachable().detail}"]


async def test_a_clock_that_is_put_right_after_it_was_far_ahead_is_believed(autojump_clock: MockClock) -> None:
    def wall() -> float:
        return clock() + (365 * 86400 if trio.current_time() < 50 else 0)

    queues, said = Queues(), list[str]()
    keys = await sent(queues, 3, said, wall)
    assert keys == ["cron-minutely-2028-01-15T08:01:00Z", "08:02:00Z", "08:03:00Z"]
    assert said == ["minutely: the clock was set back by 31535970 s, so it begins anew"]


async def test_a_stop_lets_what_is_being_sent_end(autojump_clock: MockClock) -> None:
    queues: Any = Queues()
    for takes, expected in ((4.0, 1), (6.0, 0)):
        queues.keys.clear()
        queues.takes = takes
        program = Cron(queues, parse_crontab(EVERY_MINUTE), clock=clock)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(program.run)
            await trio.sleep(60.5 - clock() % 60)  # it is due by then
            program.stop()
        assert len(queues.keys) == expected


async def test_an_entry_that_is_never_due_again_is_no_error(autojump_clock: MockClock) -> None:
    class Ended(Entry):
        def ticks(self, after: float) -> Any:
            return iter(())

    await Cron(Queues(), [Ended("a", "* * * * *", "q")], clock=clock).run()  # type: ignore[arg-type]


@pytest.fixture
def file(tmp_path: Path) -> str:
    path = tmp_path / "cron.toml"
    path.write_text('[cron.nightly]\ncron = "30 2 * * *"\nqueue = "reports"\ntimezone = "Europe/Berlin"\n')
    return str(path)


def test_it_says_when_what_is_due(file: str) -> None:
    shown = typed("cron", file, "--next", "2")
    assert (shown.returncode, shown.stderr) == (0, "")
    head, *rows = [line.split() for line in shown.stdout.splitlines()]
    assert (head, len(rows)) == (["due", "entry", "queue"], 2)
    assert rows[0][1:2] + rows[0][3:] in (["02:30:00", "nightly", "reports"], ["03:00:00", "nightly", "reports"])
    [said] = json.loads(typed("cron", file, "--next", "1", "--json").stdout)
    assert (said["name"], said["queue"]) == ("nightly", "reports")


def test_wrong_usage_is_one_line(tmp_path: Path, file: str) -> None:
    (tmp_path / "wrong.toml").write_text("[cron.a]\n")
    assert_one_line(typed("cron", str(tmp_path / "wrong.toml")), 2, "wrong.toml: [cron.a]: cron is missing.")
    assert_one_line(typed("cron", file, "--json"), 2, "--json is for --next")
    assert_one_line(typed("cron", str(tmp_path / "missing.toml")), 2, "does not exist")
