"""An error of ours, or of the libraries below us, is one connection's end and nobody else's."""

from __future__ import annotations

import errno
import logging
import socket
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import cast

import pytest
import trio
from hypercorn.app_wrappers import ASGIWrapper
from hypercorn.config import Config
from trio.testing import MockClock

import zapq
from tests.support.serving import until_waiting
from tests.support.wire import open_client
from zapq.http.metrics import ServerCounts
from zapq.http.tracing import TraceIds
from zapq.limits import MIB
from zapq.logs import Throttle
from zapq.server.front import _accept
from zapq.server.listeners import ListeningSocket
from zapq.server.protocols import HTTP1
from zapq.server.site import Site
from zapq.server.unsent import Unsent
from zapq.service.service import QueueService
from zapq.settings import Settings
from zapq.testing import ZapqServer


async def test_an_error_in_the_protocol_ends_its_connection_only(
    zapq_server: ZapqServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    create_stream = HTTP1._create_stream

    async def break_on_demand(self: HTTP1, request: object) -> None:
        if b"/break" in request.target:  # type: ignore[attr-defined]
            raise ExceptionGroup("several", [RuntimeError("a mistake"), ValueError("another")])
        await create_stream(self, request)  # type: ignore[arg-type]

    monkeypatch.setattr(HTTP1, "_create_stream", break_on_demand)
    async with open_client(zapq_server.url) as bystander, open_client(zapq_server.url) as unlucky:
        assert (await bystander.request("GET", "/health")).status == 200
        await unlucky.send("GET", "/break")
        assert await unlucky.reads_eof()
        assert (await bystander.request("GET", "/health")).status == 200
        metrics = (await bystander.request("GET", "/metrics")).json
    assert metrics["connection_errors"] == 1
    assert [record.message for record in caplog.records if record.levelno >= logging.ERROR] == [
        "connection failed"
    ]


class TestWhereAnyHostWillDo:
    @pytest.fixture
    def zapq_settings(self, zapq_settings: Settings) -> Settings:
        return replace(zapq_settings, allowed_host="*")

    @pytest.mark.parametrize("host", ["a..b", ".", "x" * 64, "[", "xn--a", "x:99999"])
    async def test_a_host_that_is_no_name_does_no_harm(self, zapq_server: ZapqServer, host: str) -> None:
        async with open_client(zapq_server.url) as client:
            assert (await client.request("GET", "/livez", headers={"Host": host})).status == 200
            assert (await client.request("GET", "/nothing", headers={"Host": host})).status == 404
            assert (await client.request("PUT", "/livez", headers={"Host": host})).status == 405


async def test_a_cancellation_at_whatever_moment_of_an_answer_is_no_error(
    zapq_service: QueueService, zapq_settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    for turns in range(25):
        async with trio.open_nursery() as nursery:
            [url] = await nursery.start(partial(zapq.serve, zapq_settings, service=zapq_service))
            async with open_client(url) as client:
                await client.send("GET", "/dequeue?wait=60")
                await until_waiting(zapq_service)
                zapq_service.enqueue_nowait(b"x")
                for _ in range(turns):
                    await trio.lowlevel.checkpoint()
                nursery.cancel_scope.cancel()
        while zapq_service.dequeue_nowait() is not None:
            pass
    assert [record.message for record in caplog.records if record.levelno >= logging.ERROR] == []


async def test_an_error_in_a_handler_is_500_with_a_trace_id_and_the_connection_goes_on(
    zapq_server: ZapqServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail() -> None:
        raise RuntimeError("a mistake with a secret in it")

    monkeypatch.setattr(zapq_server.service, "stats", fail)
    async with open_client(zapq_server.url) as client:
        answer = await client.request("GET", "/metrics")
        assert answer.status == 500
        assert answer.json["instance"] == answer.headers["x-trace-id"]
        assert b"secret" not in answer.body
        assert (await client.request("GET", "/health")).status == 200
    assert [record.message for record in caplog.records if record.levelno >= logging.ERROR] == ["request failed"]


class PoorListener:
    """The door and the reserve of a process without any descriptor, until the door is broken for good."""

    def __init__(self, client_waits: socket.socket, failures: int) -> None:
        self.fileno = client_waits.fileno
        self.errors: Iterator[OSError] = iter(
            [OSError(errno.EMFILE, "Too many open files")] * failures
            + [OSError(errno.EBADF, "Bad file descriptor")]
        )

    @property
    def sock(self) -> PoorListener:
        return self

    @property
    def reserve_descriptor(self) -> PoorListener:
        return self

    def turn_away(self, listening: object) -> None:
        """Turn nobody away: they have to wait."""

    def accept(self) -> tuple[socket.socket, object]:
        raise next(self.errors)


async def test_running_out_of_descriptors_is_a_pause_and_a_few_log_lines(
    zapq_settings: Settings, nursery: trio.Nursery, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async def app(*_: object) -> None: ...

    site = Site(
        ASGIWrapper(app),
        Config(),
        zapq_settings,
        counts=ServerCounts(),
        trace_ids=TraceIds(),
        unsent=Unsent(MIB),
        throttle=Throttle(),
    )
    begun = trio.current_time()
    ends = socket.socketpair()
    ends[0].send(b"!")
    with ends[0], ends[1], pytest.raises(OSError, match="Bad file descriptor"):
        await _accept(cast("ListeningSocket", PoorListener(ends[1], failures=50)), site, nursery)
    assert trio.current_time() - begun == pytest.approx(5)
    assert 0 < len(caplog.records) <= 20
