"""Concurrent clients over real sockets see what a queue that does a single thing at a time could show them.

Several clients use two queues of a server in every way there is, at random, and write down what they asked for,
what they were answered, and when. Every such history must be linearizable. That one that is not would be noticed
is shown with spoiled queues. `--hypothesis-profile nightly` makes more histories.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import count, cycle, permutations
from random import Random
from typing import Any

import pytest
import trio

import zapq
from tests.linearizability import Ack, Call, Dequeue, Enqueue, Operation, Receive, Release, Result, check, describe
from tests.support.wire import Answer, Client, open_client, vanish
from zapq.core.groups import Groups
from zapq.core.message import Message
from zapq.core.queue import Queue
from zapq.core.ready import Ready
from zapq.errors import ReceiptExpired
from zapq.limits import RELEASES_AT_ONCE
from zapq.settings import Settings

QUEUES = ("default", "work")
CLIENTS = 5
CALLS = 8
"""Made by each client, one after the other."""
KINDS: list[type[Call]] = [Enqueue, Dequeue, Receive, Ack, Release]


@dataclass
class Journal:
    """What all clients of one server saw, by queue, and what they have to agree on: the time, and new names."""

    histories: dict[str, list[Operation]] = field(default_factory=lambda: defaultdict(list))
    receipts: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    """Given so far, by queue. Anybody settles any of them, so that some are settled twice, or at the same time."""
    values: dict[str, str] = field(default_factory=dict)
    """What was given with each receipt."""
    releases: Counter[str] = field(default_factory=Counter)
    """How often somebody has tried to release each value."""
    _clock: count[int] = field(default_factory=count)
    _names: count[int] = field(default_factory=count)

    def now(self) -> int:
        return next(self._clock)

    def new_name(self) -> str:
        return f"new-{next(self._names)}"

    def note(self, queue: str, client: int, call: Call, invoked: int, answer: Answer) -> None:
        """Write down an operation that was answered just now."""
        result = result_of(call, answer)
        if isinstance(call, Receive) and isinstance(result, str):
            call = Receive(answer.headers["zapq-receipt"])
            assert call.receipt not in self.values, "a receipt was given twice"
            self.values[call.receipt] = result
            self.receipts[queue].append(call.receipt)
        self.histories[queue].append(Operation(client, call, result, invoked, self.now()))

    def note_unanswered(self, queue: str, client: int, call: Call, invoked: int) -> None:
        """Write down an operation whose client has left."""
        if isinstance(call, Dequeue | Receive):
            # The message it would have got may stay where it is, or be lost with the answer, or go back to its
            # place once it turns out that nobody is there to take it. To the others that looks as if somebody had
            # received it, and maybe released it later.
            call = Receive(self.new_name())
            self.histories[queue].append(Operation(client, Release(call.receipt), None, invoked, None))
        self.histories[queue].append(Operation(client, call, None, invoked, None))


class Visitor:
    """One client: one call after the other on one connection, and on another one once it has left that."""

    def __init__(
        self,
        number: int,
        url: str,
        journal: Journal,
        random: Random,
        *,
        vanishes: bool,
        groups: Sequence[str] = ("",),
        keys: Sequence[str] = ("",),
    ) -> None:
        self._number = number
        self._url = url
        self._journal = journal
        self._random = random
        self._vanishes = vanishes
        self._groups = groups
        self._keys = keys

    async def run(self) -> None:
        left = CALLS
        while left:
            async with open_client(self._url) as client:
                here = True
                while here and left:
                    left -= 1
                    here = await self._act(client)

    async def _act(self, client: Client) -> bool:
        """Make one call, and return whether we are still there."""
        await self._dawdle()
        queue = self._random.choice(QUEUES)
        call = self._choose(queue)
        wait = self._random.choice(["", "", "wait=0.001", "wait=0.005"])
        invoked = self._journal.now()
        await client.send(*request_for(queue, call, wait))
        if self._vanishes and self._random.random() < 0.15:
            self._journal.note_unanswered(queue, self._number, call, invoked)
            await self._dawdle()
            vanish(client.stream)
            return False
        self._journal.note(queue, self._number, call, invoked, await client.answer())
        return True

    async def _dawdle(self) -> None:
        """Let the others go on for some steps, so that there is no rhythm in which everybody calls."""
        for _ in range(self._random.choice([0, 0, 0, 1, 2, 5])):
            await trio.lowlevel.checkpoint()

    def _choose(self, queue: str) -> Call:
        journal = self._journal
        kind = self._random.choice([Enqueue, Enqueue, Enqueue, Dequeue, Receive, Receive, Ack, Release, Release])
        if kind is Enqueue:
            key, replacing = self._random.choice(self._keys), self._random.random() < 0.5
            return Enqueue(journal.new_name(), self._random.choice(self._groups), key, replacing and key != "")
        if kind is Dequeue:
            return Dequeue()
        if kind is Receive or not journal.receipts[queue]:
            return Receive(journal.new_name())
        receipt = self._random.choice(journal.receipts[queue][-4:])
        value = journal.values[receipt]
        # Once more, and it would have to rest, of which the specification knows nothing.
        if kind is Release and journal.releases[value] < RELEASES_AT_ONCE:
            journal.releases[value] += 1
            return Release(receipt)
        return Ack(receipt)


def request_for(queue: str, call: Call, wait: str = "") -> tuple[str, str, bytes]:
    """The method, target and body of a call; of the drop-in endpoints, if it is for the default queue."""
    base = f"/queues/{queue}"
    match call:
        case Enqueue(value, group, unique, replacing) if group or unique:
            query = f"group={group}&" * bool(group) + f"unique={unique}&" * bool(unique) + "on=replace" * replacing
            return "POST", f"{base}/messages?{query.removesuffix('&')}", value.encode()
        case Enqueue(value):
            return "POST", "/enqueue" if queue == "default" else f"{base}/messages", value.encode()
        case Dequeue():
            target = f"/dequeue?{wait}" if queue == "default" else f"{base}/receive?ack=auto&{wait}"
            return "POST", target.rstrip("?&"), b""
        case Receive():
            return "POST", f"{base}/receive?visibility=3600&{wait}".rstrip("&"), b""
        case Ack(receipt):
            return "DELETE", f"{base}/receipts/{receipt}", b""
        case Release(receipt):
            return "POST", f"{base}/receipts/{receipt}/release", b""


def result_of(call: Call, answer: Answer) -> Result:
    match call, answer.status:
        case Enqueue(value), 202:
            id = int(answer.headers["zapq-message-id"])
            how = answer.headers.get("zapq-unique")
            return -id if how == "kept" else f"{id}>{value}" if how == "replaced" else id
        case ((Dequeue() | Receive()), 200):
            return answer.body.decode()
        case ((Dequeue() | Receive()), 204):
            return None
        case ((Ack() | Release()), 204):
            return True
        case ((Ack() | Release()), 409):
            return False
    raise AssertionError(f"{call} was answered {answer}")


async def histories_of(
    settings: Settings,
    seed: int,
    *,
    vanishing: bool = False,
    groups: Sequence[str] = ("",),
    keys: Sequence[str] = ("",),
) -> dict[str, list[Operation]]:
    """Let clients use a new server, choosing as `seed` has it, and return what they saw, by queue."""
    journal = Journal()
    async with trio.open_nursery() as server:
        [url] = await server.start(zapq.serve, settings)
        async with open_client(url) as client:
            assert (await client.request("PUT", "/queues/work", b"{}")).status == 201
            async with trio.open_nursery() as clients:
                for number in range(CLIENTS):
                    random = Random(f"{seed} {number}")
                    visitor = Visitor(number, url, journal, random, vanishes=vanishing, groups=groups, keys=keys)
                    clients.start_soon(visitor.run)
            for queue in QUEUES:
                # What is left, and in which order, shows what became of the rest.
                answer = None
                while answer is None or answer.status == 200:
                    invoked = journal.now()
                    answer = await client.request(*request_for(queue, Dequeue()))
                    journal.note(queue, CLIENTS, Dequeue(), invoked, answer)
        server.cancel_scope.cancel()
    return journal.histories


@pytest.fixture
def zapq_settings(zapq_settings: Settings) -> Settings:
    return replace(zapq_settings, log_level="error")


@pytest.fixture
def seeds(hot_path: bool, gate: bool, nightly: bool) -> int:
    """How often the clients do it with the hot path; without it, which is slower, a third of that."""
    return (400 if nightly else 30 if gate else 18) // (1 if hot_path else 3)


def until_enough(seeds: int, enough: Callable[[], bool]) -> Iterator[int]:
    """Give `seeds` seeds, and more as long as their histories were too easy: which call comes first is chance."""
    yield from range(seeds)
    for seed in range(seeds, seeds + 50):
        if enough():
            return
        yield seed
    assert enough()


@pytest.mark.parametrize("vanishing", [False, True])
@pytest.mark.parametrize("hot_path", [True, False], ids=["hot", "cold"])
async def test_every_history_is_linearizable(
    zapq_settings: Settings, hot_path: bool, seeds: int, vanishing: bool
) -> None:
    settings = replace(zapq_settings, hot_path=hot_path)
    answered: list[Operation] = []
    overlaps = 0
    all_outcomes = {(kind, True) for kind in KINDS} | {(kind, False) for kind in KINDS if kind is not Enqueue}

    def hard() -> bool:
        """Whether many called at the same time, with and without something there to be done."""
        outcomes = {(type(operation.call), bool(operation.result)) for operation in answered}
        return overlaps > len(answered) / 4 and outcomes == all_outcomes

    for seed in until_enough(seeds, hard):
        for queue, history in (await histories_of(settings, seed, vanishing=vanishing)).items():
            assert check(history) is not None, f"seed {seed}, queue {queue}:\n{describe(history)}"
            here = [operation for operation in history if operation.responded is not None]
            overlaps += sum(one.invoked < other.invoked < one.end for one, other in permutations(here, 2))
            answered += here


@pytest.mark.parametrize("hot_path", [True, False], ids=["hot", "cold"])
async def test_every_history_on_disk_is_linearizable(
    zapq_settings: Settings, hot_path: bool, gate: bool, nightly: bool
) -> None:
    for seed in range(100 if nightly else 10 if gate else 6):
        place = f"{zapq_settings.data_dir}/{seed}"
        settings = replace(zapq_settings, hot_path=hot_path, durable=True, data_dir=place)
        for queue, history in (await histories_of(settings, seed, vanishing=seed % 2 == 1)).items():
            assert check(history) is not None, f"seed {seed}, queue {queue}:\n{describe(history)}"


@pytest.mark.parametrize("durable", [False, True])
@pytest.mark.parametrize("hot_path", [True, False], ids=["hot", "cold"])
async def test_every_history_of_groups_is_linearizable(
    zapq_settings: Settings, hot_path: bool, seeds: int, durable: bool
) -> None:
    # Clients stay: what is given for good holds up nothing, and what has become of it would have to be known.
    for seed in range(seeds // (3 if durable else 1)):
        place = f"{zapq_settings.data_dir}/{seed}"
        settings = replace(zapq_settings, hot_path=hot_path, durable=durable, data_dir=place if durable else "")
        for queue, history in (await histories_of(settings, seed, groups=("", "a", "a", "b:1"))).items():
            assert check(history) is not None, f"seed {seed}, queue {queue}:\n{describe(history)}"


@pytest.mark.parametrize("durable", [False, True])
@pytest.mark.parametrize("hot_path", [True, False], ids=["hot", "cold"])
async def test_every_history_of_unique_keys_is_linearizable(
    zapq_settings: Settings, hot_path: bool, seeds: int, durable: bool
) -> None:
    # Clients stay, as with groups: what is given for good frees its key.
    results: Counter[str] = Counter()

    def hard() -> bool:
        return min(results["replaced"], results["True"], results["False"]) > 0

    for seed in until_enough(seeds // (3 if durable else 1), hard):
        place = f"{zapq_settings.data_dir}/{seed}"
        settings = replace(zapq_settings, hot_path=hot_path, durable=durable, data_dir=place if durable else "")
        histories = await histories_of(settings, seed, groups=("", "", "a"), keys=("", "k", "k", "l:1"))
        for queue, history in histories.items():
            assert check(history) is not None, f"seed {seed}, queue {queue}:\n{describe(history)}"
            for each in history:
                if isinstance(each.call, Enqueue):
                    results["replaced" if isinstance(each.result, str) else str((each.result or 0) > 0)] += 1


Pop = Callable[[Queue, float], Message | None]
PopReady = Callable[[Ready], Message | None]
Settle = Callable[[Queue, str, float], None]


def give_and_keep(dequeue: Pop, queue: Queue, now: float) -> Message | None:
    message = dequeue(queue, now)
    if message is not None:
        queue.put_back(message)
    return message


def give_the_second_first(pop: PopReady, ready: Ready) -> Message | None:
    first, second = pop(ready), pop(ready)
    if first is None or second is None:
        return first
    ready.put_back(first)
    return second


def lose_what_was_accepted(enqueue: Callable[..., Message], queue: Queue, *rest: Any, **options: Any) -> Message:
    message = enqueue(queue, *rest, **options)
    queue._ready.plain.pop()
    queue._ready.count -= 1
    return message


def come_back_at_the_end(come_back: Callable[..., None], ready: Ready, message: Message) -> None:
    ready.plain.append(message)
    ready.count += 1


def say_empty(pop: PopReady, ready: Ready) -> Message | None:
    return None


def overlook_the_newest(pop: PopReady, ready: Ready) -> Message | None:
    """As if it were sent later, which is wrong only because its producer has been answered."""
    if not ready.plain:
        return pop(ready)
    newest = ready.plain.pop()
    ready.count -= 1
    message = pop(ready)
    ready.plain.append(newest)
    ready.count += 1
    return message


def keep_what_is_acknowledged(ack: Settle, queue: Queue, receipt: str, now: float) -> None:
    queue.release(receipt, 0.0, now)


def acknowledge_what_is_over(ack: Settle, queue: Queue, receipt: str, now: float) -> None:
    with suppress(ReceiptExpired):
        ack(queue, receipt, now)


@pytest.mark.parametrize(
    ("kind", "method", "spoiled"),
    [
        (Queue, "dequeue", give_and_keep),
        (Ready, "pop_plain", give_the_second_first),
        (Queue, "enqueue", lose_what_was_accepted),
        (Ready, "put_back", come_back_at_the_end),
        (Ready, "pop_plain", say_empty),
        (Ready, "pop_plain", overlook_the_newest),
        (Queue, "ack", keep_what_is_acknowledged),
        (Queue, "ack", acknowledge_what_is_over),
    ],
)
async def test_a_queue_that_does_every_other_thing_wrong_is_found_out(
    zapq_settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
    kind: type[Queue | Ready],
    method: str,
    spoiled: Callable[..., Any],
) -> None:
    original = getattr(kind, method)
    wrong = cycle([False, True])

    def do(*arguments: Any, **options: Any) -> Any:
        return spoiled(original, *arguments, **options) if next(wrong) else original(*arguments, **options)

    monkeypatch.setattr(kind, method, do)
    # The least conspicuous of them shows with two seeds in five.
    for seed in range(100):
        if None in map(check, (await histories_of(zapq_settings, seed)).values()):
            return
    pytest.fail("all histories are linearizable")


async def test_groups_that_hold_up_nothing_are_found_out(
    zapq_settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Groups, "pop_held", Groups.pop)
    for seed in range(100):
        if None in map(check, (await histories_of(zapq_settings, seed, groups=("", "a", "a"))).values()):
            return
    pytest.fail("all histories are linearizable")
