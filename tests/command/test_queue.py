"""zapq queue, message and drain, typed in this process against a server in it."""

from __future__ import annotations

import json
import subprocess
from typing import Any

import pytest
import trio

from tests.support.process import assert_one_line
from tests.support.typed import TypeIn, typed
from zapq.command.queue import SETTINGS
from zapq.command.terminal import duration
from zapq.core.queue_settings import QueueSettings
from zapq.limits import MAX_BATCH
from zapq.service.named_queue import NamedQueue
from zapq.testing import ZapqServer

Done = subprocess.CompletedProcess[str]


def shown(done: Done) -> str:
    assert (done.returncode, done.stderr) == (0, ""), done
    return done.stdout


def read(done: Done) -> Any:
    text = shown(done)
    assert text.count("\n") == 1
    return json.loads(text)


async def test_queues_are_listed_as_a_table_and_as_json(type_in: TypeIn, emails: NamedQueue) -> None:
    await emails.enqueue_many([b"hello"] * 12)
    await emails.pause()
    lines = shown(await type_in("queue", "ls")).splitlines()
    assert [line.split()[0] for line in lines] == ["queue", "default", "emails"]
    assert lines[0].split() == ["queue", "ready", "delayed", "leased", "bytes", "waiting", "oldest"]
    assert lines[2].startswith("emails (paused)     12        0       0     60        0 ")
    assert [each["name"] for each in read(await type_in("queue", "ls", "--json"))] == ["default", "emails"]
    assert [each["name"] for each in read(await type_in("queue", "ls", "em", "--json"))] == ["emails"]
    assert shown(await type_in("queue", "ls", "nothing")).split() == lines[0].split()


async def test_a_queue_is_shown_with_its_settings(type_in: TypeIn, zapq_server: ZapqServer) -> None:
    await zapq_server.service.configure("emails", QueueSettings(ttl=90, fair=True, notes={"owner": "a\x1b[1m"}))
    found = read(await type_in("queue", "show", "emails", "--json"))
    assert (found["name"], found["settings"]["ttl"]) == ("emails", 90)
    pairs = dict(line.split(None, 1) for line in shown(await type_in("queue", "show", "emails")).splitlines())
    expected = {"queue": "emails", "ttl": "90", "fair": "yes", "max_bytes": "-", "ready": "0", "paused": "no"}
    assert expected.items() <= pairs.items()
    assert pairs["note"].split() == ["owner", r"a\x1b[1m"]
    assert_one_line(await type_in("queue", "show", "nothing"), 1, "There is no queue 'nothing'")


class TestSet:
    def test_every_setting_can_be_set(self) -> None:
        assert {*SETTINGS, "notes"} == {*QueueSettings.__struct_fields__}

    async def test_a_queue_is_made_changed_and_put_back(self, type_in: TypeIn, zapq_server: ZapqServer) -> None:
        assert shown(await type_in("queue", "set", "jobs", "--visibility", "5m", "--fair")) == "jobs: made\n"
        line = "--max-bytes 2M --max-receives 3 --dead-letter bad --rate 2.5 --reset visibility --no-fair"
        assert shown(await type_in("queue", "set", "jobs", *line.split())) == "jobs: changed\n"
        settings = zapq_server.service.find("jobs").info().settings
        assert settings == QueueSettings(max_bytes=2 * 1024**2, max_receives=3, dead_letter="bad", rate=2.5)
        assert read(await type_in("queue", "set", "jobs", "--ttl", "1h", "--json"))["settings"]["ttl"] == 3600

    @pytest.mark.parametrize(
        ("line", "complaint"),
        [
            ("--max-messages many", "'many': give a whole number."),
            ("--max-bytes 1T", "'1T': give bytes, such as 512M."),
            ("--rate fast", "'fast': give a number."),
            ("--visibility 1y", "'1y': give seconds, or a number with s, m, h or d behind it"),
            ("--ttl 5m --reset ttl", "ttl is set and put back to its default. Give one of them."),
            ("--reset nothing", "'nothing' is not one of"),
        ],
    )
    def test_wrong_usage_is_one_line(self, line: str, complaint: str) -> None:
        assert_one_line(typed("queue", "set", "jobs", *line.split()), 2, complaint)

    async def test_without_a_setting_it_makes_a_queue_and_changes_none(self, type_in: TypeIn) -> None:
        assert shown(await type_in("queue", "set", "jobs")) == "jobs: made\n"
        # As often as a script that sets up a machine runs.
        assert shown(await type_in("queue", "set", "jobs")) == "jobs: is there, and nothing was given to change\n"

    async def test_what_the_server_refuses_is_one_line(self, type_in: TypeIn, emails: NamedQueue) -> None:
        assert_one_line(await type_in("queue", "set", "emails", "--visibility", "1d"), 1, "visibility must be")
        assert_one_line(await type_in("queue", "set", "emails", "--burst", "5"), 1, "Set rate as well")


async def test_a_queue_is_paused_and_resumed(type_in: TypeIn, emails: NamedQueue) -> None:
    await emails.enqueue(b"x")
    assert shown(await type_in("queue", "pause", "emails")) == "emails: paused\n"
    assert emails.info().paused
    assert read(await type_in("queue", "resume", "emails", "--json")) == {"paused": False}
    assert not emails.info().paused


async def test_what_destroys_asks_first(type_in: TypeIn, emails: NamedQueue, zapq_server: ZapqServer) -> None:
    await emails.enqueue_many([b"a", b"b"])
    for answer, code in (("n\n", 1), ("\n", 1), ("", 130)):
        done = await type_in("queue", "purge", "emails", stdin=answer, terminal=True)
        assert (done.returncode, emails.info().stats.messages) == (code, 2)
        assert "Remove 2 messages of emails? [y/N]: " in done.stderr
    done = await type_in("queue", "purge", "emails", stdin="y\n", terminal=True)
    assert (done.returncode, done.stdout.strip()) == (0, "emails: 2 messages removed")
    await emails.enqueue(b"c")
    assert read(await type_in("queue", "purge", "emails", "--yes", "--json")) == {"purged": 1}
    done = await type_in("queue", "rm", "emails", stdin="y\n", terminal=True)
    assert "Remove emails with its 0 messages? [y/N]: " in done.stderr
    assert done.returncode == 0
    assert_one_line(await type_in("queue", "rm", "emails", "--yes"), 1, "There is no queue 'emails'")
    zapq_server.service.queue("other")
    await zapq_server.service.queue("other").enqueue(b"x")
    assert read(await type_in("queue", "rm", "other", "--yes", "--json")) == {"removed": True}


@pytest.mark.parametrize(
    "line", ["queue purge jobs", "queue rm jobs", "message rm jobs 1", "drain", "snapshot load x.json"]
)
def test_where_nobody_can_be_asked_it_is_refused_and_nothing_is_sent(line: str) -> None:
    # Port 1: a request would be another complaint.
    refused = typed(*line.split(), stdin="y\n", environ={"ZAPQ_URL": "http://127.0.0.1:1"})
    assert_one_line(refused, 2, "This command asks first, and standard input is no terminal. Give --yes.")


async def fail(zapq_server: ZapqServer, count: int) -> None:
    """Let messages of `jobs` fail until they are dead letters in `bad`."""
    await zapq_server.service.configure("jobs", QueueSettings(max_receives=1, dead_letter="bad"))
    jobs = zapq_server.service.queue("jobs")
    for start in range(0, count, MAX_BATCH):
        await jobs.enqueue_many([b"x"] * min(MAX_BATCH, count - start))
        for lease in await jobs.receive_many(MAX_BATCH):
            await jobs.release(lease.receipt)


async def test_dead_letters_are_sent_back(type_in: TypeIn, zapq_server: ZapqServer) -> None:
    await fail(zapq_server, 1005)
    assert shown(await type_in("queue", "redrive", "bad", "--limit", "3")) == "bad: 3 messages moved, 1002 left\n"
    # More than one request moves.
    assert read(await type_in("queue", "redrive", "bad", "--json")) == {"moved": 1002, "left": 0}
    assert shown(await type_in("queue", "redrive", "bad")) == "bad: 0 messages moved, 0 left\n"
    assert zapq_server.service.find("jobs").info().stats.ready == 1005
    assert_one_line(await type_in("queue", "redrive", "bad", "--limit", "1", "--id", "1"), 2, "Give no --limit")
    # A queue that is none of dead letters.
    done = await type_in("queue", "redrive", "jobs")
    assert (done.returncode, done.stdout) == (0, "jobs: 0 messages moved, 1005 left\n")
    assert done.stderr.startswith("The messages that are left are no dead letters")


async def test_one_dead_letter_is_sent_back(type_in: TypeIn, zapq_server: ZapqServer) -> None:
    await fail(zapq_server, 3)
    second = str((await zapq_server.service.find("bad").peek(limit=3))[1].id)
    assert shown(await type_in("queue", "redrive", "bad", "--id", second)) == "bad: 1 message moved, 2 left\n"
    assert_one_line(await type_in("queue", "redrive", "bad", "--id", second), 3, "")
    assert_one_line(await type_in("queue", "redrive", "none", "--id", "1"), 1, "There is no queue 'none'")


async def test_one_message_is_removed(type_in: TypeIn, emails: NamedQueue) -> None:
    await emails.enqueue_many([b"a", b"b", b"c"])
    done = await type_in("message", "rm", "emails", "2", terminal=True, stdin="n\n")
    assert (done.returncode, emails.info().stats.messages) == (1, 3)
    assert "Remove message 2 of emails? [y/N]: " in done.stderr
    assert shown(await type_in("message", "rm", "emails", "2", "--yes")) == "emails: message 2 removed\n"
    assert read(await type_in("message", "rm", "emails", "3", "--yes", "--json")) == {"removed": True}
    assert_one_line(await type_in("message", "rm", "emails", "2", "--yes"), 3, "")
    await emails.receive()
    assert_one_line(await type_in("message", "rm", "emails", "1", "--yes"), 1, "A consumer holds the message.")
    assert emails.info().stats.messages == 1


async def test_messages_are_peeked_at_and_do_no_harm(type_in: TypeIn, emails: NamedQueue) -> None:
    await emails.enqueue(b"hello\n\x1b[2J" + "\u202e".encode(), content_type="text/plain", priority=3)
    await emails.enqueue(b"\xff\xfe")
    await emails.enqueue(b"x" * 100, delay=60)
    lines = shown(await type_in("queue", "peek", "emails")).splitlines()
    assert [line.split(None, 4) for line in lines] == [
        ["id", "priority", "received", "type", "body"],
        ["1", "3", "0", "text/plain", r"hello\n\x1b[2J\u202e"],
        ["2", "0", "0", "application/octet-stream", "base64: //4="],
    ]
    [delayed] = shown(await type_in("queue", "peek", "emails", "--state", "delayed")).splitlines()[1:]
    assert delayed.endswith(f" {'x' * 57}...")
    found = read(await type_in("queue", "peek", "emails", "--limit", "1", "--json"))
    assert [each["body"] for each in found] == ["hello\n\x1b[2J\u202e"]
    assert emails.info().stats.ready == 2


async def test_a_message_is_shown_and_not_taken(type_in: TypeIn, emails: NamedQueue) -> None:
    await emails.enqueue("one\ntw\u00f6\x07".encode(), headers={"order": "7"})
    await emails.enqueue(b"\xff\0")
    lines = shown(await type_in("message", "show", "emails", "1")).splitlines()
    assert lines[0].split() == ["id", "1"]
    assert ["header", "order", "7"] in [line.split() for line in lines]
    assert lines[-3:] == ["", "one", "tw\u00f6\\x07"]
    assert shown(await type_in("message", "show", "emails", "2")).endswith("\n\nbase64: /wA=\n")
    assert read(await type_in("message", "show", "emails", "1", "--json"))["headers"] == {"order": "7"}
    assert shown(await type_in("message", "show", "emails", "1", "--raw")) == "one\ntw\u00f6\x07"
    missing = await type_in("message", "show", "emails", "9")
    assert_one_line(missing, 3, "")
    assert_one_line(await type_in("message", "show", "emails", "1", "--raw", "--json"), 2, "Give no --json")
    assert_one_line(await type_in("message", "show", "nothing", "1"), 1, "There is no queue 'nothing'")
    assert emails.info().stats.ready == 2


async def test_a_server_is_drained(type_in: TypeIn, zapq_server: ZapqServer) -> None:
    done = await type_in("drain", terminal=True, stdin="n\n")
    assert done.returncode == 1
    assert done.stderr.endswith("[y/N]: zapq: Nothing was changed.\n")
    assert shown(await type_in("drain", "--yes")) == "draining\n"
    assert read(await type_in("drain", "--yes", "--json")) == {"draining": True}
    assert_one_line(await type_in("health"), 1, "The server is draining or shutting down.")


STRANGE_ANSWERS = {
    "queue ls": "[1]",
    "queue show q": "[]",
    "queue purge q --yes": "{}",
    "queue redrive q": '{"moved": "x"}',
    "queue peek q": "[{}]",
    "message show q 1": "{}",
    "message show q 1 --raw": '{"body": "x"}',
    "top --count 1": "{}",
    "pop q --ack --json": "[]",
    "snapshot ls": "[1]",
}


async def test_what_answers_but_is_no_zapq_is_one_line(type_in: TypeIn, nursery: trio.Nursery) -> None:
    answer = b""

    async def give(stream: trio.SocketStream) -> None:
        async with stream:
            await stream.receive_some()
            await stream.send_all(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(answer), answer))
            await stream.send_eof()

    [listener] = await trio.open_tcp_listeners(0, host="127.0.0.1")
    nursery.start_soon(trio.serve_listeners, give, [listener])
    url = f"http://127.0.0.1:{listener.socket.getsockname()[1]}"
    for line, text in STRANGE_ANSWERS.items():
        answer = text.encode()
        assert_one_line(await type_in(*line.split(), environ={"ZAPQ_URL": url}), 1, "did not come from zapq")
    nursery.cancel_scope.cancel()


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, "-"),
        (0.9, "0s"),
        (59.9, "59s"),
        (200, "3m20s"),
        (601, "10m"),
        (3599, "59m"),
        (172_799, "47h"),
        (172_800, "2d"),
    ],
)
def test_a_duration_has_at_most_five_characters(seconds: float | None, text: str) -> None:
    assert duration(seconds) == text
