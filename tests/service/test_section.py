"""The lock is held only while its holder runs, and cancelled waiters leave it alone."""

from __future__ import annotations

from collections import Counter

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from zapq.service.section import Gate, Section
from zapq.service.service import QueueService


async def test_who_cannot_wait_is_not_turned_away_by_crowds_who_can(zapq_service: QueueService) -> None:
    async def work() -> None:
        for _ in range(20):
            await zapq_service.enqueue(b"a")
            await zapq_service.dequeue()

    async with trio.open_nursery() as nursery:
        for _ in range(20):
            nursery.start_soon(work)
        while len(nursery.child_tasks):
            # Would raise WouldBlock, were the lock held by somebody who is not running.
            zapq_service.enqueue_nowait(b"b")
            zapq_service.dequeue_nowait()
            await trio.lowlevel.checkpoint()


async def test_while_the_holder_waits_for_something_others_wait_for_the_lock_in_order() -> None:
    lock = trio.Lock()
    entered: list[int] = []

    async def enter(number: int) -> None:
        async with Section(lock):
            entered.append(number)

    async with trio.open_nursery() as nursery, Section(lock):
        for number in range(3):
            nursery.start_soon(enter, number)
            await wait_all_tasks_blocked()
        assert lock.locked()
        assert entered == []
    assert entered == [0, 1, 2]
    assert not lock.locked()


@pytest.mark.parametrize("held", [True, False])
async def test_cancelled_it_is_not_taken(held: bool) -> None:
    lock = trio.Lock()
    async with trio.open_nursery() as nursery:

        async def hold(*, task_status: trio.TaskStatus[None]) -> None:
            async with Section(lock):
                task_status.started()
                await trio.sleep_forever()

        if held:
            await nursery.start(hold)
        with trio.CancelScope() as scope:
            scope.cancel()
            async with Section(lock):
                raise AssertionError("not reached")
        assert scope.cancelled_caught
        assert lock.locked() == held
        nursery.cancel_scope.cancel()
    assert not lock.locked()


class Passes(trio.abc.Instrument):
    """Counts the passes of the scheduler."""

    number = 0

    def before_io_wait(self, timeout: float) -> None:
        self.number += 1


async def test_a_gate_lets_a_few_go_on_at_a_time() -> None:
    gate, passes = Gate(2), Passes()
    entered: Counter[int] = Counter()

    async def enter() -> None:
        await gate.enter()
        entered[passes.number] += 1

    trio.lowlevel.add_instrument(passes)
    for _ in range(2):
        await gate.enter()
    async with trio.open_nursery() as nursery:
        for _ in range(7):
            nursery.start_soon(enter)
    trio.lowlevel.remove_instrument(passes)
    assert entered.total() == 7
    assert max(entered.values()) == 2


async def test_a_gate_lets_no_more_go_on_in_one_pass() -> None:
    gate = Gate(2)
    for _ in range(2):
        await gate.enter()
    with trio.CancelScope() as scope:
        scope.cancel()
        await gate.enter()
    assert scope.cancelled_caught  # it had to stand in line
    await wait_all_tasks_blocked()
    for _ in range(5):
        await gate.enter()  # in later passes
