"""Messages one by one and in runs: for who looks at the messages there is no difference."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from zapq.core.line import Line, Parcel
from zapq.core.message import About, Message

ABOUT = About(content_type="text/plain")
BODIES = st.lists(st.binary(max_size=4), min_size=1, max_size=5)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("append"), BODIES, st.just(0)),
        st.tuples(st.just("extend"), BODIES, st.just(0)),
        st.tuples(st.just("pop"), st.just([]), st.just(0)),
        st.tuples(st.just("pop many"), st.just([]), st.integers(1, 8)),
    ),
    max_size=20,
)


@given(STEPS)
def test_it_agrees_with_a_list(steps: list[tuple[str, list[bytes], int]]) -> None:
    line, model, next_id = Line(), list[Message](), 1
    for verb, bodies, limit in steps:
        match verb:
            case "append":
                message = Message(next_id, bodies[0], ABOUT)
                line.items.append(message)
                model.append(message)
                next_id += 2  # somebody else's is between
            case "extend":
                line.extend(next_id, bodies, ABOUT)
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
                parcel, size = line.pop_many(limit, 6)
                assert list(parcel) == expected
                assert parcel.bodies == [each.body for each in expected]
                assert size == sum(map(len, parcel.bodies))
                assert [parcel[at] for at in range(len(parcel))] == expected
        assert list(line) == model
        assert bool(line) == bool(model)
        if model:
            assert line.head_rank() == model[0].rank
        for id in range(next_id + 1):
            assert line.find(id) == next((each for each in model if each.id == id), None)


def test_a_message_larger_than_the_limit_is_given_alone() -> None:
    line = Line()
    line.extend(1, [b"x" * 10, b"y"], ABOUT)
    line.items.append(Message(3, b"z" * 10))
    sizes = []
    while line:
        parcel, size = line.pop_many(5, 4)
        sizes.append((len(parcel), size))
    assert sizes == [(1, 10), (1, 1), (1, 10)]


def test_nothing_is_made_of_nothing() -> None:
    parcel, size = Line().pop_many(5, 4)
    assert isinstance(parcel, Parcel)
    assert (list(parcel), size) == ([], 0)


def test_messages_that_are_gone_leave_and_runs_stay() -> None:
    line = Line()
    for id in (1, 2, 3):
        line.items.append(Message(id, b""))
    line.extend(4, [b"a", b"b"], ABOUT)
    line.items.append(Message(6, b""))
    gone = {1, 3, 6}
    line.drop_first(gone)
    assert gone == {3, 6}
    line.keep(lambda message: message.id not in gone)
    assert [message.id for message in line] == [2, 4, 5]
