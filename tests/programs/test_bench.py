"""`zapq bench` takes what it sends, says how long that took, and leaves nothing behind."""

from __future__ import annotations

from array import array

import pytest

from zapq.client import open_client
from zapq.command.bench import _facts, _shown
from zapq.programs.bench import Load, Measured, measure, percentiles
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


def test_what_programs_are_told() -> None:
    facts = _facts(Load(), measured(0.5))
    assert facts["sent_per_second"] == 500.0
    assert facts["put_to_receive_ms"] == dict.fromkeys(["p50", "p90", "p99", "p99.9", "max"], 250.0)
    assert (facts["client_cpu"], facts["client_cpu_us_per_message"]) == (0.2, 500.0)
