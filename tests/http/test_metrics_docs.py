"""The page of the metrics has every series that Prometheus gets and every figure of the JSON, and no other."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
from prometheus_client import Metric
from prometheus_client.openmetrics.parser import text_string_to_metric_families as read_openmetrics

from zapq.core.ages import BOUNDS, COMMIT_BOUNDS, Oldest, Spread
from zapq.core.queue_settings import QueueSettings
from zapq.core.stats import QueueStats
from zapq.http.exposition import Server, write
from zapq.http.families import SERVER
from zapq.http.metrics import ServerCounts, as_json
from zapq.http.process import figures
from zapq.http.series import Series, share
from zapq.service.engine_stats import EngineStats
from zapq.service.journal import JournalStats
from zapq.service.queue_state import QueueInfo
from zapq.service.service import QueueService

DOCS = Path(__file__).parents[2] / "docs"
PAGE = (DOCS / "reference/metrics.md").read_text()
SERIES, _, JSON = PAGE.partition("\n## Metrics as JSON\n")
ROW = re.compile(r"^\| `(\w+)` \| (\w+) \| (.*) \| ([\w ]+) \| (.*) \|$", re.MULTILINE)
ROW_OF_JSON = re.compile(r"^\| `(\w+)` \| (\w+) \| ([\w ]+) \| (.*) \|$", re.MULTILINE)
OF_HISTOGRAMS = {"le"}
SPREAD = Spread((1, *[0] * len(BOUNDS)), 0.5)


def written() -> list[Metric]:
    """Return every family there is, as a parser reads it: of one queue and a server that have all of them."""
    settings = QueueSettings(max_messages=9, max_bytes=9)
    queue = QueueInfo("jobs", settings, QueueStats(), False, 0, 1, Oldest(1.0, 1.0), SPREAD)
    known = dict.fromkeys([*SERVER, "uptime_sec", "hot_requests", "cold_requests"], 1)
    commits = Spread((1, *[0] * len(COMMIT_BOUNDS)), 0.5)
    server = Server(known, {"queue-full": 1}, SPREAD, commits, figures())
    steps = write(Series(1), share([queue], 1, None, {"jobs"}), server, 5.0, openmetrics=True)
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return list(read_openmetrics(b"".join(end.value).decode()))  # type: ignore[no-untyped-call]


def row(family: Metric) -> tuple[str, str, str, str]:
    """Return what the page says of a family: its name, its type, its labels, and its sentence."""
    suffix = {"counter": "_total", "info": "_info"}.get(family.type, "")
    labels = [name for sample in family.samples for name in sample.labels if name not in OF_HISTOGRAMS]
    shown = ", ".join(f"`{name}`" for name in dict.fromkeys(labels)) or "none"
    return family.name + suffix, family.type, shown, family.documentation


def test_the_page_has_each_series_with_its_type_its_labels_and_its_sentence() -> None:
    there = [(name, kind, labels, text) for name, kind, labels, _, text in ROW.findall(SERIES)]
    assert sorted(there) == sorted(row(family) for family in written())


def test_its_units_are_those_of_the_names() -> None:
    for name, _, _, unit, _ in ROW.findall(SERIES):
        for each in ("seconds", "bytes"):
            assert (unit == each) == (each in name.split("_")), name


@pytest.mark.parametrize("page", ["how-to/watch.md", "how-to/scale.md", "explanation/durability.md"])
def test_other_pages_name_series_that_it_has(page: str) -> None:
    named = {*re.findall(r"`(zapq_\w+)", (DOCS / page).read_text())}
    assert named <= {name for name, *_ in ROW.findall(SERIES)}


async def test_the_page_has_each_figure_of_the_json(zapq_service: QueueService) -> None:
    journal = JournalStats(0, 0, 0, 0, 0.0, 0.0, 0.0, True)
    engine = EngineStats("", "", 0, 0.0, 0, 0, 0, 0.0, 0, 0, 0, 0.0)
    stats = replace(zapq_service.stats(), journal=journal, engine=engine)
    assert [name for name, *_ in ROW_OF_JSON.findall(JSON)] == [*as_json(stats, ServerCounts(), 0.0)]
