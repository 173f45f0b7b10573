"""The examples do what they say; each is short, and says what it shows."""

from __future__ import annotations

import ast
import threading
from functools import partial
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from urllib.request import Request, urlopen

import pytest
import trio

from tests.support.waiting import eventually
from zapq.client import open_client
from zapq.client.sync import open_client as open_sync
from zapq.service.service import QueueService
from zapq.testing import ZapqServer

EXAMPLES = Path(__file__).parents[1] / "examples"


def example(name: str) -> ModuleType:
    """Import an example as a module, which runs nothing."""
    spec = spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("file", sorted(EXAMPLES.glob("*.py")), ids=lambda file: file.stem)
def test_an_example_is_short_and_says_what_it_shows_and_how_it_is_run(file: Path) -> None:
    text = file.read_text()
    assert text.count("\n") < 50
    shown = ast.get_docstring(ast.parse(text)) or ""
    assert f"{file.name}" in shown
    assert shown.partition("\n")[0].endswith((".", ":"))
    assert f"[{file.name}]" in (EXAMPLES / "README.md").read_text()


async def test_a_worker_loses_nothing_and_puts_aside_what_cannot_be_done(
    zapq_server: ZapqServer, capsys: pytest.CaptureFixture[str]
) -> None:
    worker = example("worker")
    async with open_client(zapq_server.url) as client, trio.open_nursery() as nursery:
        await client.put_many("emails", [b"one", b"broken", b"two"])
        nursery.start_soon(worker.main, zapq_server.url)
        sent: list[str] = []

        def all_sent() -> bool:
            sent.extend(capsys.readouterr().out.splitlines())
            return len(sent) == 2

        await eventually(all_sent, "both to be sent")
        assert sorted(sent) == ["sent one", "sent two"]

        async def put_off() -> bool:
            return bool((await client.stats("emails"))["delayed"] == 1)

        await eventually(put_off, "the one that failed to wait for its next turn")
        settings = (await client.describe("emails"))["settings"]
        assert (settings["max_receives"], settings["dead_letter"]) == (5, "emails-dead")
        nursery.cancel_scope.cancel()


async def test_a_webhook_that_is_delivered_twice_is_in_the_queue_once(zapq_server: ZapqServer) -> None:
    webhook = example("webhook")

    def deliver(url: str) -> int:
        request = Request(f"{url}/github", b"event", {"X-Delivery-Id": "7"}, method="POST")
        with urlopen(request) as answer:
            return int(answer.status)

    def try_it() -> list[int]:
        with open_sync(zapq_server.url) as client, webhook.receiver(client, 0) as server:
            thread = threading.Thread(target=server.serve_forever)
            thread.start()
            try:
                return [deliver(f"http://127.0.0.1:{server.server_port}") for _ in range(2)]
            finally:
                server.shutdown()
                thread.join()

    assert await trio.to_thread.run_sync(try_it) == [202, 202]
    async with open_client(zapq_server.url) as client:
        [lease] = await client.receive_many("webhooks", 10)
        assert (lease.body, lease.headers["path"]) == (b"event", "/github")


async def test_an_event_is_in_the_queue_of_each_subscriber_once(zapq_server: ZapqServer) -> None:
    fan_out = example("fan_out")

    def publish() -> None:
        with open_sync(zapq_server.url) as client:
            for _ in range(2):
                fan_out.publish(client, "order-placed", "1", b"{}")

    await trio.to_thread.run_sync(publish)
    async with open_client(zapq_server.url) as client:
        for queue in ("billing", "shipping", "statistics"):
            assert (await client.stats(queue))["ready"] == 1


async def test_a_tick_of_two_machines_is_one_job(zapq_server: ZapqServer) -> None:
    cron = example("cron")

    def ticks() -> list[bool]:
        with open_sync(zapq_server.url) as client:
            return [cron.tick(client, now) for now in (600.0, 601.5, 659.9, 660.0)]

    assert await trio.to_thread.run_sync(ticks) == [True, False, False, True]


async def test_a_request_is_answered(zapq_server: ZapqServer, capsys: pytest.CaptureFixture[str]) -> None:
    await example("request_reply").main(zapq_server.url)
    assert capsys.readouterr().out == "HELLO\n"


async def test_an_app_answers_and_its_worker_works(zapq_service: QueueService) -> None:
    quart_app = example("quart_app")
    done: list[bytes] = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(quart_app.work, zapq_service, done)
        answer = await quart_app.make_app(zapq_service).test_client().post("/thumbnails", data=b"abc")
        assert answer.status_code == 202
        await eventually(partial(done.__contains__, b"cba"), "the worker to work")
        nursery.cancel_scope.cancel()
