"""Whether the servers of an engine are fit, and its queues in order: what `zapq engine` looks at."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from functools import partial

import trio

from zapq import logs
from zapq.engine.valkey import procedures
from zapq.engine.valkey.cluster import find_topology
from zapq.engine.valkey.connection import ConnectionLost
from zapq.engine.valkey.master import durability_said
from zapq.engine.valkey.open import Finding, choose_durability, look_at, open_engine, read_engine, remedy_for
from zapq.engine.valkey.procedures import Repaired
from zapq.errors import CannotStart, QueueNotFound, ZapqError
from zapq.service.operations import List
from zapq.settings import Settings


@dataclass(frozen=True, slots=True)
class Report:
    """What was found."""

    clustered: bool
    replicas: int
    """Of the master that has the fewest."""
    durability: str
    """What a change will have reached before it is answered."""
    findings: tuple[Finding, ...]
    """For each master."""

    @property
    def fit(self) -> bool:
        """Whether zapq would start with it."""
        return not any(each.problems for each in self.findings)


def check(settings: Settings) -> Report:
    """Look at the engine that `settings` name. Raises `CannotStart` and `InvalidSetting`."""
    return trio.run(_check, settings)


async def _check(settings: Settings) -> Report:
    seeds, login = read_engine(settings)
    try:
        topology = await find_topology(seeds, login)
        durability = choose_durability(settings.engine_durability, topology)
        findings = [await look_at(server, login, durability) for server in topology.servers]
    except ConnectionLost as error:
        raise CannotStart(f"{error}. {remedy_for(error, login)}") from None
    return Report(topology.clustered, topology.replicas, durability_said(durability), tuple(findings))


def repair(settings: Settings, *, mend: bool) -> list[tuple[str, Repaired | ZapqError]]:
    """Compare what each queue says with what it holds; with `mend`, put it right. Raises as `check` does.

    Returns, for each queue that was not in order, what was found, or why it was not looked at.
    """
    # What a server would log is not for people who look: what matters is returned.
    logs.log.addHandler(logging.NullHandler())
    return trio.run(partial(_repair, settings, mend=mend))


async def _repair(settings: Settings, *, mend: bool) -> list[tuple[str, Repaired | ZapqError]]:
    found: list[tuple[str, Repaired | ZapqError]] = []
    async with open_engine(settings) as engine:
        proceed = engine.tasks.proceed
        for info in await proceed(procedures.of(engine.codec, List())):
            try:
                repaired: Repaired = await proceed(procedures.repair(engine.codec, info.name, mend=mend))
            except QueueNotFound:
                continue  # it was deleted meanwhile, or is the default queue, never used
            except ZapqError as error:
                found.append((info.name, error))
            else:
                if any(repaired):
                    found.append((info.name, repaired))
    return found
