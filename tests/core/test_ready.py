"""Messages one by one and in runs: for who looks at the messages there is no difference."""

from __future__ import annotations

from itertools import islice
from math import inf
from random import Random

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from zapq.core.message import Message, Properties
from zapq.core.ready import Ready, ReadyQueue
from zapq.core.runs import Taken, is_shortest

ABOUT = Properties(content_type="text/plain")
BODIES = st.lists(st.binary(max_size=4), min_size=1, max_size=5)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("append"), BODIES, st.just(0)),
        st.tuples(st.just("extend"), BODIES, st.just(0)),
        st.tuples(st.just("extend packed"), BODIES, st.just(0)),
        st.tuples(st.just("pop"), st.just([]), st.just(0)),
        st.tuples(st.just("pop many"), st.just([]), st.integers(1, 8)),
    ),
    max_size=20,
)


@given(STEPS)
def test_it_agrees_with_a_list(steps: list[tuple[str, list[bytes], int]]) -> None:
    line, model, next_id = ReadyQueue(), list[Message](), 1
    for verb, bodies, limit in steps:
        match verb:
            case "append":
                message = Message(next_id, bodies[0], ABOUT)
                line.items.append(message)
                model.append(message)
                next_id += 2  # somebody else's is between
            case "extend" | "extend packed":
                packed = msgspec.msgpack.encode(bodies) if verb == "extend packed" else b""
                line.extend(next_id, bodies, sum(map(len, bodies)), ABOUT, packed)
                model += [Message(next_id + number, body, ABOUT) for number, body in enumerate(bodies)]
                next_id += len(bodies)
            case "pop" if model:
                assert line.pop() == model.pop(0)
            case "pop many":
                expected: list[Message] = []
                while model and len(expected) < limit:
                    if expected and sum(len(each.body) for each in (*expected, model[0])) > 6:
                        break
                    expected.append(model.pop(0))
                taken, size = line.pop_many(limit, 6)
                assert list(taken) == expected
                assert taken.packed() == msgspec.msgpack.encode([each.body for each in expected])
                assert taken.bodies == [each.body for each in expected]
                assert size == sum(map(len, taken.bodies))
                assert [taken[at] for at in range(len(taken))] == expected
        if verb != "extend packed":  # to look at them takes them apart
            assert list(line) == model
        assert bool(line) == bool(model)
        if model:
            assert line.head_rank() == model[0].rank
        for id in range(next_id + 1) if verb == "pop" else ():
            assert line.find(id) == next((each for each in model if each.id == id), None)


def test_a_message_larger_than_the_limit_is_given_alone() -> None:
    line = ReadyQueue()
    line.extend(1, [b"x" * 10, b"y"], 11, ABOUT)
    line.items.append(Message(3, b"z" * 10))
    sizes = []
    while line:
        taken, size = line.pop_many(5, 4)
        sizes.append((len(taken), size))
    assert sizes == [(1, 10), (1, 1), (1, 10)]


def test_nothing_is_made_of_nothing() -> None:
    taken, size = ReadyQueue().pop_many(5, 4)
    assert isinstance(taken, Taken)
    assert (list(taken), size) == ([], 0)


@given(st.lists(st.sampled_from([0, 1, 255, 256, 65_535, 65_536]), max_size=20), st.integers(0, 3))
def test_the_shortest_form_is_known_from_its_length(sizes: list[int], longer: int) -> None:
    bodies = [bytes(size) for size in sizes]
    packed = msgspec.msgpack.encode(bodies) + bytes(longer)
    assert is_shortest(packed, bodies, sum(sizes)) == (longer == 0)


def test_runs_of_any_number_are_joined_into_one_array() -> None:
    for counts in ((1,), (14, 1), (15, 1), (16, 20), (100, 65_500), (70_000,)):
        line, everything = ReadyQueue(), list[bytes]()
        for count in counts:
            bodies = [b"%d" % number for number in range(count)]
            line.extend(len(everything) + 1, bodies, 0, ABOUT, msgspec.msgpack.encode(bodies))
            everything += bodies
        assert line.pop_many(10**6, 10**9)[0].packed() == msgspec.msgpack.encode(everything)


MESSAGES = st.lists(
    st.tuples(
        st.sampled_from([0, 0, 0, 1, 9]),
        st.sampled_from([inf, inf, 5.0, 7.0]),
        st.sampled_from(["", "", "jobs", "mails"]),
        st.booleans(),
    ),
    max_size=12,
)
TAKING = st.lists(
    st.sampled_from(["pop", "pop", "pop many", "pop each", "remove", "letter", "outlived", "put back", "pause"]),
    max_size=12,
)


@given(MESSAGES, TAKING, st.randoms(use_true_random=False))
def test_all_that_is_ready_agrees_with_a_sorted_list(
    messages: list[tuple[int, float, str, bool]], taking: list[str], random: Random
) -> None:
    ready, model = Ready(), dict[int, Message]()
    apart: set[int] = set()
    for id, (priority, expires, failed_in, comes_back) in enumerate(messages, 1):
        model[id] = message = Message(id, b"", Properties("", priority, expires, failed_in=failed_in))
        (ready.put_back if comes_back else ready.append)(message)
        if comes_back or expires < inf or failed_in:
            apart.add(id)
    taken: list[Message] = []
    for verb in taking:
        expected = sorted(model.values(), key=lambda each: each.rank)
        before = len(taken)
        match verb:
            case "pop":
                taken += filter(None, [ready.pop()])
                assert taken[before:] == ([] if ready.paused else expected[:1])
            case "pop many":
                at_once = ready.pop_many(2, 99)
                if at_once is not None:
                    taken += at_once[0]
                    assert taken[before:] == expected[:2]
            case "pop each":
                taken += islice(ready.pop_each(), 3)
                assert taken[before:] == ([] if ready.paused else expected[:3])
            case "remove" if apart & model.keys():
                taken.append(model[random.choice(sorted(apart & model.keys()))])
                ready.remove(taken[-1])
            case "letter":
                letters = {name: list(line) for name, line in ready.letters().items()}
                for name in ("jobs", "mails"):
                    assert letters.get(name, []) == [
                        each for each in expected if each.properties.failed_in == name
                    ]
            case "outlived":
                # Those that end at one time come in any order.
                taken += sorted(ready.outlived(6.0, 99), key=lambda each: each.id)
                gone = [each for each in model.values() if each.properties.expires <= 6.0]
                assert taken[before:] == sorted(gone, key=lambda each: each.id)
            case "put back" if taken:
                message = taken.pop(random.randrange(len(taken)))
                ready.put_back(message)
                model[message.id] = message
                apart.add(message.id)
                continue
            case "pause":
                ready.paused = not ready.paused
        for message in taken[before:]:
            del model[message.id]
        assert ready.count == len(model)
        assert list(ready) == sorted(model.values(), key=lambda each: each.rank)
        assert [ready.find(id) for id in range(1, 14)] == [model.get(id) for id in range(1, 14)]
        assert sorted(each.id for each in ready.expiring.values()) == sorted(
            each.id for each in model.values() if each.properties.expires < inf
        )
