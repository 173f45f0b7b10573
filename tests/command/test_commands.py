"""push, pop, stats and health as people type them, against a real server."""

from __future__ import annotations

import os
import pty
import re
import signal
import ssl
import subprocess
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest
import trio
import trustme

import zapq
from tests.support.ports import free_ports
from tests.support.process import ENVIRON, MODULE, SCRIPT, Run, as_text, assert_one_line, serving, shown
from tests.support.waiting import eventually
from zapq.command.http import Connection, parse_url
from zapq.service.named_queue import NamedQueue
from zapq.settings import Settings
from zapq.testing import ZapqServer


@asynccontextmanager
async def started(*arguments: str) -> AsyncGenerator[trio.Process, None]:
    """Start the command, and kill it at the end."""
    process = await trio.lowlevel.open_process(
        [*SCRIPT, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=ENVIRON,
    )
    try:
        yield process
    finally:
        process.kill()
        with trio.CancelScope(shield=True):
            await process.wait()
        for stream in (process.stdin, process.stdout, process.stderr):
            assert stream is not None
            await trio.aclose_forcefully(stream)


async def output(process: trio.Process, size: int) -> bytes:
    """Return the next `size` bytes a command prints."""
    assert process.stdout is not None
    data = b""
    while len(data) < size and (more := await process.stdout.receive_some(size - len(data))):
        data += more
    return data


async def end(stream: trio.SocketStream) -> None:
    """Close in order: with something unread, it would be a reset, and that can overtake what was sent."""
    await stream.send_eof()
    async for _ in stream:
        pass


async def test_push_stores_its_argument_or_standard_input(run: Run, emails: NamedQueue) -> None:
    assert shown(await run("push", "emails", "hello")) == (0, b"1\n", b"")
    assert shown(await run("push", "emails", "-", stdin=b"a\nb\n")) == (0, b"2\n", b"")
    assert shown(await run("push", "emails", stdin=b"\xff\0")) == (0, b"3\n", b"")
    assert shown(await run("push", "emails", "")) == (0, b"4\n", b"")
    assert [message.body for message in await emails.dequeue_many(9)] == [b"hello", b"a\nb\n", b"\xff\0", b""]


async def test_a_queue_whose_name_begins_with_a_dash_stands_behind_two(run: Run, zapq_server: ZapqServer) -> None:
    assert shown(await run("push", "--", "--jobs", "-x")) == (0, b"1\n", b"")
    assert (await run("stats", "--", "--jobs")).returncode == 0
    assert shown(await run("pop", "--", "--jobs")) == (0, b"-x", b"")


async def test_push_can_send_every_line(run: Run, emails: NamedQueue) -> None:
    assert shown(await run("push", "emails", "--lines", stdin=b"one\n\nthree")) == (0, b"1\n2\n3\n", b"")
    assert [message.body for message in await emails.dequeue_many(9)] == [b"one", b"", b"three"]


async def test_push_sends_a_line_as_soon_as_it_is_read(zapq_url: str, emails: NamedQueue) -> None:
    async with started("push", "emails", "--lines", "--url", zapq_url) as process:
        assert process.stdin is not None
        await process.stdin.send_all(b"one\n")
        await eventually(lambda: emails.available, "the line to arrive")


async def test_push_says_how_to_keep_the_message(run: Run, emails: NamedQueue) -> None:
    pushed = await run(
        "push", "emails", "x", "--priority", "9", "--ttl", "86400.5", "--content-type", "text/plain"
    )
    assert pushed.returncode == 0
    assert (await run("push", "emails", "x", "--delay", "12d")).returncode == 0
    assert emails.info().stats.delayed == 1
    message = await emails.dequeue()
    assert message is not None
    assert (message.priority, message.content_type) == (9, "text/plain")
    for _ in range(2):
        assert shown(await run("push", "emails", "x", "--key", "invoice-7")) == (0, b"3\n", b"")


async def test_push_sends_a_message_of_a_group(run: Run, emails: NamedQueue) -> None:
    for text in ("one", "two"):
        assert (await run("push", "emails", text, "--group", "order:7")).returncode == 0
    first = await emails.receive()
    assert first is not None
    assert (first.body, first.group) == (b"one", "order:7")
    assert await emails.receive() is None
    refused = await run("push", "emails", "x", "--group", "order 7")
    assert refused.returncode == 1
    assert b"group must be" in refused.stderr


async def test_push_sends_a_message_with_a_key_once_and_says_so(run: Run, emails: NamedQueue) -> None:
    assert shown(await run("push", "emails", "one", "--unique", "report:7")) == (0, b"1\n", b"")
    kept = shown(await run("push", "emails", "two", "--unique", "report:7"))
    assert kept == (0, b"1\n", b"emails holds this message with the key report:7. Nothing was stored.\n")
    replaced = await run("push", "emails", "three", "--unique", "report:7", "--on", "replace")
    assert shown(replaced) == (0, b"1\n", b"")
    message = await emails.dequeue()
    assert message is not None
    assert message.body == b"three"
    refused = await run("push", "emails", "x", "--on", "replace")
    assert refused.returncode == 2
    assert b"Give the key with --unique" in refused.stderr


async def test_push_sends_headers(run: Run, emails: NamedQueue) -> None:
    pushed = await run(
        "push", "emails", "--lines", "--header", "Order=a=b", "--header", "ce-id=e 1", stdin=b"1\n2\n"
    )
    assert shown(pushed) == (0, b"1\n2\n", b"")
    messages = await emails.dequeue_many(9)
    assert [message.headers for message in messages] == [{"order": "a=b", "ce-id": "e 1"}] * 2
    refused = await run("push", "emails", "x", "--header", f"Long={'x' * 9000}")
    assert refused.returncode == 1
    assert b"8 KiB" in refused.stderr


async def test_pop_prints_exactly_the_message_and_takes_it(run: Run, emails: NamedQueue) -> None:
    await emails.enqueue_many([b"\xff\n\0", b""])
    assert shown(await run("pop", "emails")) == (0, b"\xff\n\0", b"")
    assert shown(await run("pop", "emails", "--ack")) == (0, b"", b"")
    assert (emails.info().stats.dequeued, emails.info().stats.acked) == (1, 1)
    assert shown(await run("pop", "emails")) == (3, b"", b"")
    assert shown(await run("pop", "emails", "--ack")) == (3, b"", b"")


async def test_pop_can_wait(run: Run, emails: NamedQueue, zapq_server: ZapqServer) -> None:
    async with trio.open_nursery() as nursery:

        async def send_when_somebody_waits() -> None:
            await eventually(lambda: zapq_server.service.stats().waiting == 1, "the command to wait")
            await emails.enqueue(b"hello")

        nursery.start_soon(send_when_somebody_waits)
        assert shown(await run("pop", "emails", "--wait", "30")) == (0, b"hello", b"")


@pytest.mark.parametrize("ack", [[], ["--ack"]], ids=repr)
async def test_pop_follows_until_interrupted(ack: list[str], zapq_url: str, zapq_server: ZapqServer) -> None:
    service = zapq_server.service
    async with started("pop", "later", "--follow", *ack, "--url", zapq_url) as process:
        await service.queue("later").enqueue_many([b"one", b"two"])
        assert await output(process, 8) == b"one\ntwo\n"
        await eventually(lambda: service.stats().waiting == 1, "the command to wait")
        process.send_signal(signal.SIGINT)
        assert await process.wait() == 130
        assert process.stdout is not None
        assert process.stderr is not None
        assert await process.stdout.receive_some() == b""
        assert await process.stderr.receive_some() == b""
    assert service.queue("later").info().stats.messages == 0


async def test_pop_follows_a_queue_that_is_not_there_yet(zapq_url: str, zapq_server: ZapqServer) -> None:
    async with started("pop", "later", "--follow", "--url", zapq_url) as process:
        await eventually(lambda: zapq_server.service.stats().waiting, "the command to ask")
        await zapq_server.service.queue("later").enqueue(b"hello")
        assert await output(process, 6) == b"hello\n"


async def test_pop_takes_nothing_when_nobody_reads_what_it_prints(zapq_url: str, emails: NamedQueue) -> None:
    await emails.enqueue_many([b"one", b"two"])
    for options, code in (([], 141), (["--ack"], 141), (["--follow"], 141), (["--follow", "--ack"], 141)):
        before = emails.info().stats
        async with started("pop", "emails", *options, "--url", zapq_url) as process:
            assert process.stdout is not None
            assert process.stderr is not None
            await process.stdout.aclose()
            assert await process.wait() == code
            assert await process.stderr.receive_some() == b""
        lost = emails.info().stats.dequeued - before.dequeued
        # Without an acknowledgement, only --follow looks before it takes.
        assert lost == (options == [])
        assert emails.info().stats.leased == 0


async def test_pop_ends_the_line_for_people(zapq_url: str, emails: NamedQueue) -> None:
    await emails.enqueue(b"hello")
    ours, theirs = pty.openpty()
    try:
        command = [*SCRIPT, "pop", "emails", "--url", zapq_url]
        await trio.run_process(command, stdout=theirs, env=ENVIRON)
        assert os.read(ours, 100) == b"hello\r\n"
    finally:
        os.close(ours)
        os.close(theirs)


async def test_stats_are_a_table(run: Run, emails: NamedQueue, zapq_server: ZapqServer) -> None:
    await emails.enqueue_many([b"hello"] * 12)
    await emails.pause()
    every, one = await run("stats"), await run("stats", "emails")
    # A busy machine lets a message be seconds old.
    rows, rows_of_one = (
        [re.sub(r"\d+s$", "0s", row) for row in each.stdout.decode().splitlines()] for each in (every, one)
    )
    assert rows == [
        "queue            ready  delayed  leased  bytes  waiting  enqueued  dequeued  acked"
        "  dead  refused  oldest",
        "default              0        0       0      0        0         0         0      0"
        "     0        0       -",
        "emails (paused)     12        0       0     60        0        12         0      0"
        "     0        0      0s",
    ]
    assert rows_of_one == [rows[0], rows[2]]
    assert (every.returncode, every.stderr, one.returncode) == (0, b"", 0)


async def test_stats_can_be_watched(zapq_url: str) -> None:
    async with started("stats", "--watch", "--url", zapq_url) as process:
        text = b""
        while text.count(b"\n") < 5:
            text += await output(process, 1)
        first, second = text.split(b"\n\n")
        assert second == first + b"\n"
        assert first.startswith(b"queue ")
        process.send_signal(signal.SIGINT)
        assert await process.wait() == 130


async def test_health_is_whether_messages_are_taken(run: Run, zapq_server: ZapqServer) -> None:
    assert shown(await run("health")) == (0, b"ok\n", b"")
    zapq_server.service.drain()
    assert_one_line(as_text(await run("health")), 1, "The server is draining or shutting down.")


class TestUnix:
    """The same, over a unix socket."""

    @pytest.fixture
    def zapq_settings(self, tmp_path: Path) -> Settings:
        return Settings(addr=f"unix:{tmp_path}/s", data_dir=str(tmp_path), grace=1.0)

    async def test_everything_goes_over_a_unix_socket(self, run: Run, zapq_url: str) -> None:
        assert zapq_url.startswith("unix:")
        assert shown(await run("health")) == (0, b"ok\n", b"")
        assert shown(await run("push", "emails", "--lines", stdin=b"one\ntwo\n")) == (0, b"1\n2\n", b"")
        assert shown(await run("pop", "emails", "--url", zapq_url, ZAPQ_URL="")) == (0, b"one", b"")


async def test_refusals_are_one_line(run: Run, emails: NamedQueue) -> None:
    for arguments, complaint in (
        (("stats", "nothing"), "There is no queue 'nothing'; `zapq queue ls` lists those there are."),
        (("push", "a b", "x"), "queue must be 1 to 80 letters"),
        (("push", "..", "x"), "queue must be 1 to 80 letters"),
        (("push", "emails", "x", "--ttl", "0"), "ttl"),
        (("push", "emails", "x", "--delay", "400d"), "delay"),
        (("push", "emails", "x", "--content-type", "a\nb"), "Invalid header value"),
        (("push", "emails", "x", "--key", "\u20ac"), "can't encode"),
    ):
        assert_one_line(as_text(await run(*arguments)), 1, complaint)
    assert emails.info().stats.messages == 0


async def test_a_name_the_server_does_not_know_is_its_own_is_one_line_with_the_remedy(
    run: Run, zapq_server: ZapqServer
) -> None:
    # The resolver knows what this means, but it is not how an address is written.
    url = zapq_server.url.replace("127.0.0.1", "127.1")
    refused = as_text(await run("push", "emails", "x", "--url", url))
    assert refused.returncode == 1
    assert refused.stderr.endswith('zapq does not answer to "127.1"; start it with --allowed-host 127.1\n')
    assert refused.stderr.count("\n") == 1


async def test_a_server_that_is_not_there_or_none_is_one_line(run: Run, tmp_path: Path) -> None:
    [port] = free_ports(1)
    remedy = "Is a server running there? --url or ZAPQ_URL say which one."
    for command in (("push", "emails", "x"), ("pop", "emails"), ("stats",), ("health",)):
        url = f"http://127.0.0.1:{port}"
        assert_one_line(as_text(await run(*command, ZAPQ_URL=url)), 1, f"{url}: Connection refused. {remedy}")
    missing = f"No such file or directory. {remedy}"
    assert_one_line(as_text(await run("health", ZAPQ_URL=f"unix:{tmp_path}/s")), 1, missing)


@pytest.mark.parametrize(
    ("command", "answer", "complaint"),
    [
        ("health", "HTTP/1.1 502 Bad Gateway\r\n\r\n", "The server answered 502 Bad Gateway."),
        ("health", "HTTP/1.1 500 X\r\nContent-Type: application/problem+json\r\n\r\n[]", "answered 500 X."),
        ("health", "220 mail\r\n", "220 mail"),
        (
            "health",
            "",
            "closed the connection without an answer. If it speaks https, use --url https://127.0.0.1:",
        ),
        (
            "health",
            "\x15\x03\x01\x00\x02\x022",
            "The server speaks https on this port. Use --url https://127.0.0.1:",
        ),
        (
            "health",
            "HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain\r\n\r\nThis port speaks https.\n",
            "The server speaks https on this port. Use --url https://127.0.0.1:",
        ),
        (
            "push emails x",
            "HTTP/1.1 400 Bad Request\r\nContent-Type: application/problem+json\r\n\r\n"
            '{"type": "/problems/invalid-parameter", "detail": "No https://x."}',
            "zapq: No https://x.",
        ),
        ("push emails x", "HTTP/1.1 200 OK\r\n\r\n<html>", "did not come from zapq"),
        ("pop emails --ack", "HTTP/1.1 200 OK\r\n\r\n<html>", "did not come from zapq"),
        ("stats", "HTTP/1.1 200 OK\r\n\r\n<html>", "did not come from zapq"),
        ("stats", "HTTP/1.1 200 OK\r\n\r\n[1]", "did not come from zapq"),
        ("stats", "HTTP/1.1 200 OK\r\n\r\n{}", "did not come from zapq"),
    ],
    ids=repr,
)
async def test_what_answers_but_is_no_zapq_is_one_line(
    command: str, answer: str, complaint: str, run: Run, nursery: trio.Nursery
) -> None:
    async def give(stream: trio.SocketStream) -> None:
        async with stream:
            await stream.receive_some()
            await stream.send_all(answer.encode())
            await end(stream)

    [listener] = await trio.open_tcp_listeners(0, host="127.0.0.1")
    nursery.start_soon(trio.serve_listeners, give, [listener])
    url = f"http://127.0.0.1:{listener.socket.getsockname()[1]}"
    assert_one_line(as_text(await run(*command.split(), ZAPQ_URL=url)), 1, complaint)
    nursery.cancel_scope.cancel()


async def test_a_connection_closed_while_idle_is_opened_again(run: Run, nursery: trio.Nursery) -> None:
    requests: list[bytes] = []

    async def answer_once(stream: trio.SocketStream) -> None:
        async with stream:
            requests.append(bytes(await stream.receive_some()))
            await stream.send_all(b"HTTP/1.1 202 Accepted\r\nContent-Length: 0\r\nZapq-Message-Id: 1\r\n\r\n")
            await end(stream)

    [listener] = await trio.open_tcp_listeners(0, host="127.0.0.1")
    nursery.start_soon(trio.serve_listeners, answer_once, [listener])
    url = f"http://127.0.0.1:{listener.socket.getsockname()[1]}"

    def ask_three_times() -> list[str]:
        with Connection(parse_url(url)) as connection:
            answers = [connection.request("POST", "/queues/emails/messages", body=b"x") for _ in range(3)]
        return [each.field("Zapq-Message-Id") for each in answers]

    assert await trio.to_thread.run_sync(ask_three_times) == ["1", "1", "1"]
    assert [request.split()[1] for request in requests] == [b"/queues/emails/messages"] * 3
    nursery.cancel_scope.cancel()


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["push"], "Missing argument 'QUEUE'. See `zapq push --help`."),
        (["serv"], "No such command 'serv'. Did you mean 'serve'? See `zapq --help`."),
        (["xyzzy"], "No such command 'xyzzy'. See `zapq --help`."),
        (["token"], "Missing command. See `zapq token --help`."),
        (["queue", "ste"], "No such command 'ste'."),
        (["push", "emails", "x", "--lines"], "--lines reads standard input"),
        (["push", "emails", "--lines", "--key", "x"], "--key is for one message"),
        (["push", "emails", "x", "--file", __file__], "--file has the messages"),
        (["push", "emails", "--file", "missing"], "does not exist"),
        (["push", "emails", "x", "--priority", "10"], "--priority"),
        (["push", "emails", "x", "--delay", "-1"], "--delay"),
        (["push", "emails", "x", "--header", "order"], "--header 'order' is not NAME=VALUE"),
        (["push", "emails", "x", "--header", "=17"], "--header '=17' is not NAME=VALUE"),
        (["push", "emails", "x", "--header", "a=\u00fc"], "is not NAME=VALUE in visible ASCII"),
        (["push", "emails", "x", "--header", "a=1", "--header", "A=2"], "--header gives A twice"),
        (["pop", "emails", "--wait", "61"], "--wait"),
        (["pop", "emails", "--follow", "--wait", "5"], "--follow waits by itself"),
        (["stats", "--url", "localhost:8080"], "give http://host:port"),
        (["stats", "--url", "http://localhost:99999"], "give http://host:port"),
        (["stats", "--url", "http://localhost:0"], "give http://host:port"),
        (["stats", "--url", "http://[::1"], "give http://host:port"),
        (["stats", "--url", "http://a b"], "give http://host:port"),
        (["stats", "--url", "unix:"], "give http://host:port"),
        (["health", "--nothing"], "No such option"),
        (["health", "--port", "80"], "No such option '--port'. Use --url http://HOST:PORT.\n"),
        (["pop", "-jobs"], "'-j'. If a queue is called so, write -- before it: zapq pop -- QUEUE."),
    ],
    ids=repr,
)
def test_wrong_usage_is_one_line_and_exit_code_2(arguments: list[str], complaint: str) -> None:
    result = subprocess.run([*SCRIPT, *arguments], capture_output=True, text=True, env=ENVIRON, check=False)
    assert_one_line(result, 2, complaint)


def test_a_full_disk_is_one_line(tmp_path: Path) -> None:
    with serving(tmp_path, "--addr", f"unix:{tmp_path}/s"), open("/dev/full", "wb") as full:
        command = [*SCRIPT, "health", "--url", f"unix:{tmp_path}/s"]
        result = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, env=ENVIRON, check=False)
    assert (result.returncode, result.stderr) == (1, b"zapq: No space left on device\n")


@pytest.mark.parametrize("command", ["push", "pop", "stats", "health", "snapshot"])
@pytest.mark.parametrize("zapq_itself", [SCRIPT, MODULE], ids=["script", "module"])
def test_both_doors_lead_to_every_command(command: str, zapq_itself: list[str]) -> None:
    result = subprocess.run([*zapq_itself, command, "--help"], capture_output=True, text=True, check=True)
    assert result.stdout.startswith(f"Usage: zapq {command} ")
    listed = subprocess.run([*zapq_itself, "--help"], capture_output=True, text=True, check=True)
    assert f"\n  {command} " in listed.stdout


def test_the_door_leads_to_the_server_too() -> None:
    result = subprocess.run([*SCRIPT, "--version"], capture_output=True, text=True, check=True)
    assert result.stdout == f"zapq {zapq.__version__}\n"
    assert_one_line(
        subprocess.run([*SCRIPT, "--addr", "8080"], capture_output=True, text=True, env=ENVIRON, check=False),
        2,
        "give :8080",
    )


async def test_pop_of_nothing_is_no_failure(run: Run, emails: NamedQueue) -> None:
    await emails.enqueue(b"hello")
    assert shown(await run("pop", "emails")) == (0, b"hello", b"")
    for ack in ([], ["--ack"]):
        assert shown(await run("pop", "emails", *ack)) == (3, b"", b"")
        # It may be misspelt, so a line says so; in memory, each queue is away from a start to its first message.
        assert_one_line(as_text(await run("pop", "nothing", *ack)), 3, "no")


@pytest.mark.parametrize(
    "answers", [b"", b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n"], ids=["tls", "plain"]
)
async def test_the_other_scheme_is_named_where_the_port_speaks_it(
    answers: bytes, run: Run, nursery: trio.Nursery
) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trustme.CA(key_type=trustme.KeyType.ECDSA).issue_cert("localhost").configure_cert(context)

    async def answer(stream: trio.SocketStream) -> None:
        # The command hangs up as soon as it has seen enough.
        with suppress(trio.BrokenResourceError):
            async with stream:
                if answers:
                    await stream.receive_some()
                    await stream.send_all(answers)
                    await end(stream)
                else:
                    await trio.SSLStream(stream, context, server_side=True).do_handshake()

    [listener] = await trio.open_tcp_listeners(0, host="127.0.0.1")
    nursery.start_soon(trio.serve_listeners, answer, [listener])
    port = listener.socket.getsockname()[1]
    given, other = ("https", "http") if answers else ("http", "https")
    refused = as_text(await run("health", "--url", f"{given}://127.0.0.1:{port}"))
    assert_one_line(refused, 1, f"se --url {other}://127.0.0.1:{port}.")
    nursery.cancel_scope.cancel()
