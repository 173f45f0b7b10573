"""The fingerprint of a large offer is made in slices, and is the one that it would have at once."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

import zapq
from tests.service.asking import asked, put, surely_put, taken
from zapq.core.message import Draft
from zapq.errors import Draining, KeyReused, QueueFull
from zapq.limits import FINGERPRINT_SLICE
from zapq.service.fingerprint import fingerprint_in_slices, fingerprint_of
from zapq.service.operations import Accepted, Offer, Put, terms
from zapq.service.pending import Later
from zapq.service.service import QueueService
from zapq.settings import Settings

PIECE = 60_000
MANY = [b"%d" % number * PIECE for number in range(10, 30)]
LARGE = [
    MANY,
    [Draft(body=MANY[0], priority=3), *MANY],
    b"x" * (2 * FINGERPRINT_SLICE + 1),
]


@pytest.mark.parametrize("content", LARGE)
async def test_made_in_slices_it_is_the_same(content: bytes | Sequence[bytes | Draft]) -> None:
    turns = 0

    async def turn() -> None:
        nonlocal turns
        turns += 1
        await trio.lowlevel.checkpoint()

    offer = Offer(content, terms(content_type="text/plain"), "key")
    assert await fingerprint_in_slices(offer, turn) == fingerprint_of(offer)
    assert turns > 3


@pytest.mark.parametrize("content", LARGE[:2])
async def test_a_large_batch_is_stored_once(content: Sequence[bytes | Draft]) -> None:
    async with zapq.open_service(Settings()) as service:
        offer = Offer(content, key="key")
        outcome = put(service, offer)
        assert isinstance(outcome, Later)
        states = [outcome.working]
        first = await outcome.wait()
        assert [*states, outcome.working] == [True, False]
        assert not first.replayed
        assert await surely_put(service, offer) == Accepted(first.id, True)
        with pytest.raises(KeyReused):
            await surely_put(service, Offer([*content[:-1], b"another"], key="key"))
        assert len(await taken(service.queue("new"))) == len(content)
        assert service.broker.reserved == 0


async def test_while_it_is_made_its_bytes_count() -> None:
    size = sum(map(len, MANY))
    async with zapq.open_service(Settings(max_bytes=size + size // 2)) as service:
        later = put(service, Offer(MANY, key="key"))
        assert isinstance(later, Later)
        assert service.broker.reserved == size
        with pytest.raises(QueueFull):
            put(service, Offer(MANY, key="other"))
        first = await later.wait()
        assert service.broker.reserved == 0
        # There is no room to hold it again: so it is looked up at once.
        assert put(service, Offer(MANY, key="key")) == Accepted(first.id, True)


async def test_those_that_drain_in_the_meantime_refuse_it() -> None:
    async with zapq.open_service(Settings()) as service:
        later = put(service, Offer(MANY, key="key"))
        assert isinstance(later, Later)
        service.drain()
        with pytest.raises(Draining):
            await later.wait()
        assert service.broker.reserved == 0


async def test_a_client_that_leaves_has_it_stored() -> None:
    async with zapq.open_service(Settings()) as service:
        asked(service, Put(MANY, key="key", queue="new")).abandon()
        await wait_all_tasks_blocked()
        assert (await surely_put(service, Offer(MANY, key="key"))).replayed


async def test_it_may_wait_for_room() -> None:
    async with zapq.open_service(Settings(max_msgs=len(MANY))) as service:
        await service.enqueue(b"in the way")
        later = asked(service, Put(MANY, terms(wait=60), "key", queue="new"))
        await wait_all_tasks_blocked()
        assert not later.done
        assert isinstance(later, Later)
        assert not later.working
        await service.dequeue()
        assert not (await later.wait()).replayed
        assert service.broker.reserved == 0


async def test_what_is_large_without_a_key_is_stored_at_once(zapq_service: QueueService) -> None:
    assert isinstance(put(zapq_service, Offer(MANY)), Accepted)
    assert isinstance(put(zapq_service, Offer([b"a"], key="key")), Accepted)
