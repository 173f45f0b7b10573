"""A graceful stop that ends messages says how many, and how to keep them; one that ends none says nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.support.process import running_zapq
from tests.support.wire import ask

ADVICE = (
    "They were in memory only. To keep messages over the next stop, start with --durable, or with"
    " --snapshot-on-exit NAME.msgpack and"
    " --load-on-start NAME.msgpack."
)


async def warnings(tmp_path: Path, *flags: str, sent: int = 2, save: str = "") -> list[dict[str, Any]]:
    """Send messages to two queues and one to the default queue, stop the server, and return its warnings."""
    async with running_zapq(tmp_path, *flags) as server:
        for queue in ("default", "a", "b")[: sent + 1 if sent else 0]:
            for _ in range(2):
                assert (await ask(server.url, "POST", f"/queues/{queue}/messages", b"x")).status == 202
        if sent:
            # One that is leased is lost as well.
            assert (await ask(server.url, "POST", "/queues/a/receive")).status == 200
        if save:
            assert (await ask(server.url, "POST", f"/persist?file={save}")).status == 200
        await server.stop()
        assert await server.process.wait() == 0
        return [line for line in server.messages() if line["level"] == "WARNING"]


async def test_a_stop_that_loses_messages_says_how_many_and_how_to_keep_them(tmp_path: Path) -> None:
    [warning] = await warnings(tmp_path)
    del warning["time"]
    assert warning == {"level": "WARNING", "msg": "messages lost", "messages": 6, "queues": 3, "reason": ADVICE}


@pytest.mark.parametrize("flags", [("--durable",), ("--snapshot-on-exit", "a.msgpack")], ids=" ".join)
async def test_a_stop_that_keeps_them_says_nothing(tmp_path: Path, flags: tuple[str, ...]) -> None:
    assert await warnings(tmp_path, *flags) == []


async def test_a_stop_with_empty_queues_says_nothing(tmp_path: Path) -> None:
    assert await warnings(tmp_path, sent=0) == []


async def test_a_stop_after_everything_was_saved_says_nothing(tmp_path: Path) -> None:
    assert await warnings(tmp_path, save="a.msgpack") == []


async def test_json_keeps_the_default_queue_only(tmp_path: Path) -> None:
    assert await warnings(tmp_path, "--snapshot-on-exit", "a.json", sent=0) == []
    # Also if another file holds all of them: the next start would load the newest.
    [warning] = await warnings(tmp_path, "--snapshot-on-exit", "a.json", save="a.msgpack")
    assert (warning["messages"], warning["queues"]) == (4, 2)
    assert warning["reason"] == (
        "a.json keeps the default queue only. To keep all queues, start with --durable, or give a file"
        " that ends in .msgpack."
    )
