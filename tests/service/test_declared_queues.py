"""Queues the settings declare: there from the start, set as declared, whatever earlier runs have left."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from zapq.core.queue_settings import QueueSettings
from zapq.errors import CannotStart
from zapq.service.open import open_service
from zapq.settings import Settings

JOBS = QueueSettings(visibility=60, max_receives=5, dead_letter="jobs.dead")


@pytest.fixture(params=[False, True], ids=["memory", "durable"])
def settings(request: pytest.FixtureRequest, zapq_settings: Settings) -> Settings:
    return replace(zapq_settings, durable=request.param)


async def held(settings: Settings) -> Mapping[str, tuple[QueueSettings, int]]:
    """Return how each queue is set when the service has started, and how many messages it holds."""
    async with open_service(settings) as service:
        return {queue.name: (queue.info().settings, queue.info().stats.messages) for queue in service.queues()}


async def test_they_are_there_from_the_start_and_so_is_where_their_dead_letters_go(settings: Settings) -> None:
    in_order = QueueSettings()
    declared = replace(settings, queues={"jobs": JOBS, "default": QueueSettings(ttl=7)})
    assert await held(declared) == {
        "default": (QueueSettings(ttl=7), 0),
        "jobs": (JOBS, 0),
        "jobs.dead": (in_order, 0),
    }


async def test_what_is_declared_beats_what_the_database_has_kept(zapq_settings: Settings) -> None:
    settings = replace(zapq_settings, durable=True)
    async with open_service(settings) as service:
        for name in ("jobs", "other"):
            await service.configure(name, QueueSettings(visibility=7))
            await service.queue(name).enqueue(b"x")
    expected = {"default": (QueueSettings(), 0), "jobs": (JOBS, 1), "jobs.dead": (QueueSettings(), 0)}
    expected["other"] = (QueueSettings(visibility=7), 1)
    assert await held(replace(settings, queues={"jobs": JOBS})) == expected
    # And is kept in its turn.
    assert await held(settings) == expected


async def test_queues_that_are_named_are_there_from_the_start(settings: Settings) -> None:
    named = replace(settings, queue="emails, jobs.dead,orders.fifo,emails", queues={"jobs": JOBS})
    in_order = QueueSettings(notes={"sqs:scope": "queue"})
    assert await held(named) == {
        "default": (QueueSettings(), 0),
        "emails": (QueueSettings(), 0),
        "jobs": (JOBS, 0),
        "jobs.dead": (QueueSettings(), 0),
        "orders.fifo": (in_order, 0),
    }


async def test_a_queue_that_is_named_keeps_the_settings_it_has(zapq_settings: Settings) -> None:
    settings = replace(zapq_settings, durable=True, queue="emails,jobs", queues={"jobs": JOBS})
    async with open_service(settings) as service:
        await service.configure("emails", QueueSettings(visibility=7))
        await service.queue("emails").enqueue(b"x")
    again = await held(settings)
    assert (again["emails"], again["jobs"]) == ((QueueSettings(visibility=7), 1), (JOBS, 0))


async def test_what_a_dialect_keeps_for_itself_stays_and_what_its_clients_set_does_not(
    zapq_settings: Settings,
) -> None:
    settings = replace(zapq_settings, durable=True)
    notes = {
        "sqs:created": "1",
        "sqs:purged": "2",
        "sqs:scope": "queue",
        "sqs:DelaySeconds": "3",
        "sqs:tag:a": "x",
    }
    async with open_service(settings) as service:
        await service.configure("jobs", QueueSettings(notes=notes))
    declared = QueueSettings(visibility=7, notes={"sqs:scope": "messageGroup", "sqs:tag:b": "y"})
    expected = {"sqs:created": "1", "sqs:purged": "2", "sqs:scope": "messageGroup", "sqs:tag:b": "y"}
    got, _ = (await held(replace(settings, queues={"jobs": declared})))["jobs"]
    assert got == QueueSettings(visibility=7, notes=expected)


@pytest.mark.parametrize("name", ["a.msgpack", "a.json"])
async def test_what_is_declared_beats_what_is_loaded(zapq_settings: Settings, name: str) -> None:
    async with open_service(zapq_settings) as service:
        await service.configure("jobs", QueueSettings(visibility=7))
        await service.queue("jobs").enqueue(b"x")
        await service.snapshot(name)
    settings = replace(zapq_settings, load_on_start=name, queues={"jobs": JOBS})
    assert (await held(settings))["jobs"] == (JOBS, int(name == "a.msgpack"))


async def test_a_queue_that_is_set_as_declared_is_not_written_again(zapq_settings: Settings) -> None:
    settings = replace(zapq_settings, durable=True, queues={"jobs": JOBS})
    await held(settings)
    async with open_service(settings) as service:
        journal = service.stats().journal
        assert journal is not None
        assert journal.commits == 0


async def test_dead_letters_may_go_the_other_way_than_before(settings: Settings) -> None:
    forth = {"a": QueueSettings(max_receives=2, dead_letter="b"), "b": QueueSettings()}
    back = {"a": QueueSettings(), "b": QueueSettings(max_receives=2, dead_letter="a")}
    for queues in (forth, back, forth):
        for name, (got, _) in (await held(replace(settings, queues=queues))).items():
            assert got == queues.get(name, QueueSettings())


async def test_what_contradicts_what_was_kept_is_refused_and_says_which_queue(
    zapq_settings: Settings, tmp_path: Path
) -> None:
    settings = replace(zapq_settings, durable=True)
    async with open_service(settings) as service:
        await service.configure("b", QueueSettings(max_receives=2, dead_letter="a"))
    declared = {"a": QueueSettings(max_receives=2, dead_letter="b")}
    for queues, queue, limit, complaint in (
        (
            declared,
            "",
            9,
            r"^\[queues\.a\] dead_letter: Dead letters would move in a circle\. .* Declare also the kept",
        ),
        (
            {"c": QueueSettings()},
            "",
            3,
            r"^\[queues\.c\]: The server has as many queues as --max-queues allows: 3",
        ),
        ({}, "c", 3, r"^--queue c: The server has as many queues as --max-queues allows: 3"),
    ):
        with pytest.RaisesGroup(pytest.RaisesExc(CannotStart, match=complaint)):
            await held(replace(settings, queues=queues, queue=queue, max_queues=limit))
    assert await held(settings) == {
        "a": (QueueSettings(), 0),
        "b": (QueueSettings(max_receives=2, dead_letter="a"), 0),
        "default": (QueueSettings(), 0),
    }


async def test_a_start_that_is_refused_changes_no_kept_settings(zapq_settings: Settings) -> None:
    settings = replace(zapq_settings, durable=True)
    kept = QueueSettings(max_receives=3, dead_letter="c")
    async with open_service(settings) as service:
        await service.configure("a", kept)
        await service.configure("b", QueueSettings(max_receives=3, dead_letter="a"))
    with pytest.RaisesGroup(CannotStart):
        await held(replace(settings, queues={"a": QueueSettings(max_receives=3, dead_letter="b")}))
    assert (await held(settings))["a"] == (kept, 0)
