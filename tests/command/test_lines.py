"""push --lines and push --file: many messages in few requests."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.support.process import assert_one_line
from tests.support.typed import Terminal, TypeIn
from zapq.command import lines as command_lines
from zapq.command.http import Connection, Failed
from zapq.command.lines import Sender, batches
from zapq.limits import CLIENT_ATTEMPTS, MAX_MESSAGE_BYTES, MIB
from zapq.service.named_queue import NamedQueue
from zapq.testing import ZapqServer


def cut(data: bytes) -> list[list[bytes]]:
    return list(batches(io.BytesIO(data)))


def test_lines_are_cut_into_batches() -> None:
    assert cut(b"") == []
    assert cut(b"one\n\nthree") == [[b"one", b""], [b"three"]]
    assert [len(each) for each in cut(b"x\n" * 2500)] == [1000, 1000, 500]
    big = b"x" * (MIB // 2 + 1)
    assert cut((big + b"\n") * 3) == [[big]] * 3


def test_a_line_that_cannot_be_a_message_is_not_read_to_its_end() -> None:
    class Endless(io.BytesIO):
        def read1(self, size: int | None = -1, /) -> bytes:
            return b"x" * MIB

    with pytest.raises(Failed, match=f"more than {MAX_MESSAGE_BYTES} bytes"):
        list(batches(Endless()))


async def test_a_file_is_sent_in_few_requests(
    type_in: TypeIn, emails: NamedQueue, zapq_server: ZapqServer, tmp_path: Path
) -> None:
    file = tmp_path / "lines"
    file.write_text("".join(f"{number}\n" for number in range(2500)))
    done = await type_in("push", "emails", "--file", str(file), "--priority", "3", "--header", "a=b")
    assert (done.returncode, done.stdout, done.stderr) == (0, "emails: 2500 messages sent, 1 to 2500\n", "")
    messages = await emails.dequeue_many(1000)
    assert [each.body for each in messages] == [b"%d" % number for number in range(1000)]
    assert {(each.priority, *each.headers.items()) for each in messages} == {(3, ("a", "b"))}


async def test_programs_are_told_as_well(type_in: TypeIn, emails: NamedQueue, tmp_path: Path) -> None:
    file = tmp_path / "lines"
    file.write_text("a\nb\n")
    done = await type_in("push", "emails", "--file", str(file), "--json")
    assert json.loads(done.stdout) == {"count": 2, "first_id": 1, "last_id": 2}
    file.write_text("")
    done = await type_in("push", "emails", "--file", str(file), "--json")
    assert json.loads(done.stdout) == {"count": 0}
    assert (await type_in("push", "emails", "--file", str(file))).stdout == "emails: 0 messages sent\n"


async def test_lines_with_a_key_are_held_once(type_in: TypeIn, emails: NamedQueue) -> None:
    done = await type_in("push", "emails", "--lines", "--unique", "k", stdin="a\nb\n")
    assert (done.returncode, done.stdout) == (0, "1\n1\n")
    assert done.stderr == "emails holds this message with the key k. Nothing was stored.\n"
    done = await type_in("push", "emails", "--lines", "--unique", "k", "--json", stdin="c\n")
    assert json.loads(done.stdout) == {"id": 1, "unique": "kept"}


async def test_a_batch_that_is_refused_says_what_was_stored(
    type_in: TypeIn,
    zapq_server: ZapqServer,
    emails: NamedQueue,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pauses = list[float]()
    monkeypatch.setattr(command_lines, "sleep", pauses.append)
    await zapq_server.service.change_settings("emails", max_messages=1500)
    file = tmp_path / "lines"
    file.write_text("x\n" * 2500)
    done = await type_in("push", "emails", "--file", str(file))
    refused = (
        "There is no room: the queue holds 1000 of 1500 messages (max_messages). This request stored nothing."
    )
    assert_one_line(done, 1, f"zapq: 1000 messages were stored. The next batch failed: {refused}")
    assert emails.info().stats.messages == 1000
    # As often and as late as the client for Python.
    assert len(pauses) == CLIENT_ATTEMPTS - 1
    assert min(pauses) >= 1
    done = await type_in("push", "emails", "--lines", stdin="x\n" * 1001)
    assert_one_line(done, 1, f"zapq: {refused}")


@pytest.mark.parametrize(("sent", "stored"), [(1, ""), (1001, "zapq: 1000 messages were stored. The next ")])
async def test_what_passes_is_tried_again(
    type_in: TypeIn, monkeypatch: pytest.MonkeyPatch, emails: NamedQueue, sent: int, stored: str
) -> None:
    """A server that goes away and comes back loses nothing; of one that stays away, it is said how far it came."""
    request, failing = Connection.request, [True]

    def fail_at_times(self: Connection, *arguments: Any, body: bytes, **more: Any) -> Any:
        if len(msgspec.msgpack.decode(body)) == 1 and failing[0]:
            error = Failed("gone")
            error.status = 504
            raise error
        return request(self, *arguments, body=body, **more)

    def pause(seconds: float) -> None:
        failing[0] = failing[0] and not comes_back

    monkeypatch.setattr(Connection, "request", fail_at_times)
    monkeypatch.setattr(command_lines, "sleep", pause)
    for comes_back in (False, True):
        done = await type_in("push", "emails", "--lines", stdin="x\n" * sent)
        if comes_back:
            assert (done.returncode, done.stderr, done.stdout.count("\n")) == (0, "", sent)
        else:
            assert (done.returncode, done.stderr.endswith("gone\n")) == (1, True)
            assert done.stderr.startswith(stored)


@pytest.mark.parametrize(
    "answer", [[], {"count": 2}, {"count": 1, "first_id": 1}, {"ids": [1, 2], "unique": [""]}]
)
def test_what_is_no_answer_of_ours_is_said(answer: object) -> None:
    class Stub:
        json = answer

    connection: Any = Stub()
    connection.request = lambda *_, **__: connection
    with pytest.raises(Failed, match="did not come from zapq"):
        Sender(connection, "emails", {}, {}).send([b"a", b"b"])


@pytest.mark.parametrize("seconds", [0.0, 1e9])
async def test_a_terminal_shows_how_far_it_is_if_it_takes_a_while(
    type_in: TypeIn, emails: NamedQueue, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seconds: float
) -> None:
    monkeypatch.setattr(command_lines, "PROGRESS_AFTER", seconds)
    errors = Terminal(io.BytesIO(), "utf-8", write_through=True)
    monkeypatch.setattr(command_lines, "_errors", lambda: errors)
    file = tmp_path / "lines"
    file.write_text("x\n" * 2500)
    assert (await type_in("push", "emails", "--file", str(file))).returncode == 0
    shown = errors.buffer.getvalue().decode()  # type: ignore[attr-defined]
    assert ("100%" in shown) == (seconds == 0)


async def test_what_is_typed_shows_none(type_in: TypeIn, emails: NamedQueue) -> None:
    done = await type_in("push", "emails", "--lines", stdin="a\n", terminal=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "1\n", "")


def test_of_a_pipe_the_size_is_not_known() -> None:
    assert command_lines._size(io.BytesIO(b"x")) == 0
    with Path(__file__).open("rb") as stream:
        assert command_lines._size(stream) == Path(__file__).stat().st_size
