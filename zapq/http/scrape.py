"""How Prometheus is answered: the queues and the server are asked one after the other, and written as text."""

from __future__ import annotations

import re
from fnmatch import fnmatchcase
from functools import partial

from zapq.errors import ZapqError
from zapq.http import metrics, process, render, wire
from zapq.http.exposition import OPENMETRICS, TEXT_FORMAT, Server, write
from zapq.http.plan import Asked, Frame, InPieces, Plan, Steps
from zapq.http.render import JSON
from zapq.http.series import Series, of_deleted, share
from zapq.service.operations import List, Stats
from zapq.service.queue_state import QueueInfo
from zapq.service.service_stats import ServiceStats

_PARAMETER = re.compile(r";\s*(?!q=)[\w-]+=[^;,]*")
_TYPES = {"text/plain": TEXT_FORMAT, "application/openmetrics-text": OPENMETRICS}


def plan(asked: Asked) -> Plan:
    """Plan to tell in one of Prometheus's formats what queues hold and do."""
    return _in(_best_of(asked.accept, list(_TYPES)) or "text/plain", asked)


def plan_any(asked: Asked) -> Plan:
    """Plan to tell it as JSON, unless the client prefers one of Prometheus's formats."""
    best = _best_of(asked.accept, [JSON, *_TYPES]) or JSON
    return Plan(Stats(), media_type=JSON) if best == JSON else _in(best, asked)


def _best_of(accept: str, offered: list[str]) -> str | None:
    # Prometheus names versions, and ways to write names: it reads what it gets by the answer's Content-Type.
    return wire.best_of(_PARAMETER.sub("", accept), offered)


def _in(media_type: str, asked: Asked) -> Plan:
    wanted = asked.values.get("queue")
    steps = partial(_scrape, media_type, asked.queues, wanted)
    return Plan(None, media_type=media_type, steps=steps, shared=(media_type, asked.queues, wanted))


def _scrape(media_type: str, allowed: str, wanted: str | None, frame: Frame, series: Series) -> Steps:
    """Answer a client that may know of the queues `allowed` and asks for those called like `wanted`.

    About the whole server a client hears only if it may know of all queues, and asks for no one.
    """
    about_all = allowed == "*" and wanted is None
    server, deleted, reachable = None, None, True
    if about_all:
        # What all queues come to together, Prometheus adds up itself.
        stats: ServiceStats = yield Stats(sums=False)
        deleted = of_deleted(stats.deleted, stats.deleted_waits)
        server = Server(
            metrics.as_json(stats, frame.counts, frame.now),
            metrics.refusals(stats, frame.counts),
            stats.lease_times,
            None if stats.journal is None else stats.journal.spread,
            # With several processes each scrape would tell of another one.
            {} if stats.elsewhere else process.figures(),
        )
        reachable = stats.engine is None or stats.engine.reachable > 0
    infos: list[QueueInfo] = []
    try:
        # Without any master within reach, the refusal would come when Prometheus has given up.
        if reachable:
            infos = yield List(allowed)
    except ZapqError:
        # What the server knows of itself says why: an alert is about it.
        if not about_all:
            raise
    yield None
    of_dead_letters = {info.settings.dead_letter for info in infos}
    if wanted is not None:
        infos = [info for info in infos if fnmatchcase(info.name, wanted)]
    format = _TYPES[media_type]
    shown = share(infos, series.limit, deleted, of_dead_letters)
    body = yield from write(series, shown, server, frame.now, openmetrics=format is OPENMETRICS)
    head = render.head(sum(map(len, body)), format, frame.tail, b"Vary: Accept\r\n")
    return InPieces(head, body)
