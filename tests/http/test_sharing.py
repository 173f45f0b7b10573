"""What many ask for at once is made once, and for none before it asked."""

from __future__ import annotations

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from zapq.errors import QueueNotFound
from zapq.http.sharing import Shared


class Maker:
    """Makes numbers, one after the other, each when it is let."""

    def __init__(self) -> None:
        self.made = 0
        self.let = trio.Semaphore(0)

    async def make(self) -> int:
        self.made += 1
        number = self.made
        await self.let.acquire()
        return number


async def test_those_who_ask_meanwhile_share_the_next_one(nursery: trio.Nursery) -> None:
    shared, maker = Shared(), Maker()
    got: list[tuple[str, int]] = []

    async def ask(name: str) -> None:
        got.append((name, await shared.get("key", maker.make)))

    nursery.start_soon(ask, "first")
    await wait_all_tasks_blocked()
    for name in ("second", "third", "fourth"):
        nursery.start_soon(ask, name)
    await wait_all_tasks_blocked()
    assert maker.made == 1
    maker.let.release()
    await wait_all_tasks_blocked()
    assert got == [("first", 1)]
    assert maker.made == 2
    maker.let.release()
    await wait_all_tasks_blocked()
    assert sorted(got) == [("first", 1), ("fourth", 2), ("second", 2), ("third", 2)]
    # Nothing is kept for those who ask later.
    maker.let.release()
    assert await shared.get("key", maker.make) == 3
    assert not shared._lines


async def test_others_make_what_was_refused_or_given_up(nursery: trio.Nursery) -> None:
    shared, maker = Shared(), Maker()
    got: list[int] = []
    begun = trio.CancelScope()

    async def give_up() -> None:
        with begun:
            await shared.get("key", maker.make)

    async def refuse() -> int:
        raise QueueNotFound(queue="jobs")

    async def be_refused() -> None:
        with pytest.raises(QueueNotFound):
            await shared.get("key", refuse)

    async def ask() -> None:
        got.append(await shared.get("key", maker.make))

    for each in (give_up, be_refused, ask):
        nursery.start_soon(each)
        await wait_all_tasks_blocked()
    begun.cancel()
    maker.let.release()
    await wait_all_tasks_blocked()
    assert got == [2]
    assert not shared._lines


async def test_different_things_are_made_apart(nursery: trio.Nursery) -> None:
    shared, maker = Shared(), Maker()
    for key in ("one", "other"):
        nursery.start_soon(shared.get, key, maker.make)
    await wait_all_tasks_blocked()
    assert maker.made == 2
    nursery.cancel_scope.cancel()
