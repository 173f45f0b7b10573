"""`zapq bench` takes what it sends, says how long that took, and leaves nothing behind."""

from __future__ import annotations

from array import array
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from tests.support.process import assert_one_line, run
from zapq.client import open_client
from zapq.command.bench import _facts, _shown
from zapq.limits import BENCH_AHEAD
from zapq.programs.bench import Load, Measured, measure, percentiles
from zapq.programs.plot import curve, plot
from zapq.testing import ZapqServer


@pytest.mark.parametrize("batch", [1, 7])
async def test_all_that_is_sent_is_taken(zapq_server: ZapqServer, batch: int) -> None:
    told: list[float] = []
    async with open_client(zapq_server.url) as client:
        load = Load(producers=2, consumers=3, seconds=0.1, size=8, batch=batch)
        found = await measure(client, "bench", load, note=told.append)
    assert found.sent == found.taken == len(found.ways) == len(found.puts) * batch > 0
    assert found.drained >= found.seconds >= 0.1
    assert told[0] >= 0
    stats = zapq_server.service.queue("bench").info().stats
    assert (stats.messages, stats.acked) == (0, found.sent)


async def test_messages_can_be_sent_alone(zapq_server: ZapqServer) -> None:
    async with open_client(zapq_server.url) as client:
        found = await measure(client, "bench", Load(producers=2, consumers=0, seconds=0.05))
    assert (found.taken, len(found.ways), found.drained) == (0, 0, found.seconds)
    assert zapq_server.service.queue("bench").info().stats.messages == found.sent > 0


async def test_producers_wait_for_consumers_that_are_behind(autojump_clock: MockClock) -> None:
    held: list[bytes] = []
    most = 0

    class Slow:
        async def put(self, queue: str, body: bytes) -> None:
            nonlocal most
            held.append(body)
            most = max(most, len(held))
            await trio.lowlevel.checkpoint()

        async def receive_many(self, queue: str, limit: int, *, wait: float) -> list[Any]:
            await trio.sleep(10)
            return [SimpleNamespace(body=held.pop(0))] if held else []

        async def ack(self, lease: object) -> None:
            pass

    client: Any = Slow()
    found = await measure(client, "bench", Load(producers=3, consumers=2, seconds=0.05))
    assert found.sent == found.taken
    # Each producer may have asked before another sent.
    assert most <= 2 * BENCH_AHEAD + 3


def test_percentiles() -> None:
    assert percentiles([]) == [0.0] * 5
    assert percentiles(array("f", [1.0])) == [1.0] * 5
    assert percentiles([each / 1000 for each in range(1, 1001)]) == [0.5, 0.9, 0.99, 0.999, 1.0]


def measured(cpu: float) -> Measured:
    return Measured(
        sent=1000, taken=1000, seconds=2.0, drained=2.5, cpu=cpu, puts=array("f", [0.001]), ways=array("f", [0.25])
    )


def test_what_is_shown() -> None:
    first, second, third, _, ours = _shown(measured(0.5)).splitlines()
    assert first.split()[:3] == ["messages", "a", "second"]
    assert second.split() == ["put", "1000", "500", *["1.00"] * 5]
    assert third.split() == ["put", "to", "receive", "1000", "400", *["250.00"] * 5]
    assert ours == "This program: 20% of a core, 500 us a message."
    assert "the server may do more" in _shown(measured(2.5))


def test_a_picture_shows_both_rows(tmp_path: Path) -> None:
    plot(measured(0.5), tmp_path / "both.svg")
    picture = (tmp_path / "both.svg").read_text()
    assert "<!-- put -->" in picture
    assert "<!-- put to receive -->" in picture
    with pytest.raises(OSError, match="No such file"):
        plot(measured(0.5), tmp_path / "none" / "both.svg")


def test_the_slowest_percent_has_as_much_room_as_the_ten_before() -> None:
    shares, milliseconds = curve(array("d", [0.004, 0.001, 0.003, 0.002]))
    assert shares == [1, 4 / 3, 2, 4]
    assert milliseconds == [1, 2, 3, 4]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "code"), [("way.png", 0), ("way.gif", 2), ("none/way.svg", 2)])
def test_the_command_draws(zapq_url: str, tmp_path: Path, name: str, code: int) -> None:
    options = ("--seconds", "0.1", "--plot", str(tmp_path / name))
    done = run("bench", "--url", zapq_url, *options)
    assert done.returncode == code
    assert (tmp_path / name).exists() == (code == 0)
    if code:
        assert_one_line(done, code, "there is no directory" if "/" in name else "give FILE a name that ends so")


def test_what_programs_are_told() -> None:
    facts = _facts(Load(), measured(0.5))
    assert facts["sent_per_second"] == 500.0
    assert facts["put_to_receive_ms"] == dict.fromkeys(["p50", "p90", "p99", "p99.9", "max"], 250.0)
    assert (facts["client_cpu"], facts["client_cpu_us_per_message"]) == (0.2, 500.0)


def test_without_consumers_nothing_is_said_of_receiving() -> None:
    assert "put to receive" in _shown(measured(0.5))
    assert "put to receive" not in _shown(measured(0.5), taking=False)
