"""On disk, every client is answered: also if something goes wrong in a step back, or the disk is given up."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from tests.service.asking import asked, leased, wait_for
from tests.support.disk import Disk, journal_of, open_durable
from tests.support.waiting import eventually
from zapq.errors import CannotStart, StorageUnavailable
from zapq.service.journal import Journal
from zapq.service.operations import Put
from zapq.service.pending import Pending


def go_wrong() -> None:
    raise RuntimeError("a mistake of ours")


FAULTS: dict[str, tuple[bool, Callable[[Journal], object]]] = {
    "stepping back": (True, lambda journal: journal.enter(None, go_wrong)),
    "hearing of a failure": (True, lambda journal: journal.when_resolved(lambda _: go_wrong())),
    "hearing of a success": (False, lambda journal: journal.when_written(go_wrong)),
    "going on afterwards": (False, lambda journal: setattr(journal, "on_resolved", go_wrong)),
}


@pytest.mark.parametrize(("fails", "plant"), FAULTS.values(), ids=FAULTS)
async def test_an_error_of_ours_ends_the_service_and_every_client_is_answered(
    tmp_path: Path, disk: Disk, fails: bool, plant: Callable[[Journal], object]
) -> None:
    answered: list[str] = []

    async def hear(pending: Pending[object]) -> None:
        try:
            await pending.wait()  # which no cancellation ends
            answered.append("written")
        except StorageUnavailable:
            answered.append("refused")

    async def serve() -> None:
        async with open_durable(tmp_path) as service, trio.open_nursery() as nursery:
            disk.hold()
            nursery.start_soon(hear, asked(service, Put(b"first")))
            await disk.held()
            plant(journal_of(service))
            nursery.start_soon(hear, asked(service, Put(b"second")))
            journal_of(service).flush()
            nursery.start_soon(hear, asked(service, Put(b"third")))
            await wait_all_tasks_blocked()
            disk.failing = fails
            disk.go_on()
            await trio.sleep_forever()

    with pytest.RaisesGroup(pytest.RaisesExc(RuntimeError, match="mistake of ours"), flatten_subgroups=True):
        await serve()
    assert answered == ["refused" if fails else "written"] * 3


async def test_after_the_disk_is_given_up_no_client_waits_for_it(tmp_path: Path, disk: Disk) -> None:
    async def serve() -> None:
        async with open_durable(tmp_path) as service:
            queue = service.default
            await queue.enqueue_many([b"a", b"b"])
            [given] = await queue.dequeue_many(1)
            lease = await leased(queue)
            disk.hold()
            writing = asked(service, Put(b"new", queue="elsewhere"))
            await disk.held()
            queue.return_undelivered([given])
            poll = wait_for(service, "default")
            service.abandon_storage()
            assert writing.done
            # The message has come back, and is given to the consumer in line: one more change to be written.
            late: list[Pending[Any]] = [writing, poll, asked(service, Put(b"late"))]

            async def end_lease() -> None:
                with pytest.raises(StorageUnavailable, match="does not answer"):
                    await queue.ack(lease.receipt)

            async with trio.open_nursery() as nursery:
                nursery.start_soon(end_lease)
                for each in late:
                    await eventually(lambda each=each: each.done, "the answer")  # type: ignore[misc]
                    with pytest.raises(StorageUnavailable, match="does not answer"):
                        each.result()
            service.default.enqueue_nowait(b"later")
            with pytest.raises(StorageUnavailable, match="does not answer"):
                await service.stored()

    with pytest.raises(CannotStart, match="does not answer"):
        await serve()
    disk.go_on()
