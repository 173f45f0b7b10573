"""The board keeps the rules that make it work in everybody's Grafana."""

from __future__ import annotations

import re
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest

from tests.prometheus.board import expressions, filled_in, panels, read

BOARD = read()
PANELS = panels(BOARD)
VARIABLES: dict[str, dict[str, Any]] = {each["name"]: each for each in BOARD["templating"]["list"]}
DOC = (Path(__file__).parents[2] / "docs/reference/metrics.md").read_text()
SELECTOR = 'job=~"$job", instance=~"$instance"'
by_title = pytest.mark.parametrize("panel", PANELS, ids=lambda panel: panel["title"])


@by_title
def test_a_panel_says_what_it_shows_and_in_which_unit(panel: dict[str, Any]) -> None:
    assert panel["title"]
    assert panel["description"].endswith(".")
    assert panel["fieldConfig"]["defaults"]["unit"]


@by_title
def test_a_panel_asks_the_source_that_was_chosen(panel: dict[str, Any]) -> None:
    for each in (panel, *panel["targets"]):
        assert each["datasource"] == {"type": "prometheus", "uid": "${datasource}"}


@pytest.mark.parametrize(("title", "expression"), [*expressions(BOARD)])
def test_an_expression_asks_for_one_server_and_fits_every_scrape_interval(title: str, expression: str) -> None:
    selectors = re.findall(r"(\w+)\{([^}]*)\}", expression)
    assert selectors
    for name, labels in selectors:
        assert labels.startswith(SELECTOR), name
        metric = re.sub("_bucket$", "", name)
        assert f"| `{metric}` |" in DOC, f"the reference does not have {name}"
    assert set(re.findall(r"\[([^]]*)\]", expression)) <= {"$__rate_interval", "$__range"}
    # Outside of selectors nothing is named.
    assert "{" not in re.sub(r"\w+\{[^}]*\}", "", expression)


def test_no_job_and_no_source_is_written_down() -> None:
    assert VARIABLES["datasource"]["type"] == "datasource"
    assert VARIABLES["datasource"]["query"] == "prometheus"
    assert not any(re.search(r'job="|instance="', expression) for _, expression in expressions(BOARD))
    assert set(VARIABLES) == {"datasource", "job", "instance", "queue"}
    for name in ("job", "instance", "queue"):
        assert VARIABLES[name]["query"]["query"].startswith("label_values(zapq_")


def test_each_queue_that_is_chosen_has_a_row_of_its_own() -> None:
    rows = [panel for panel in BOARD["panels"] if panel["type"] == "row"]
    assert [row["title"] for row in rows if row.get("repeat") == "queue"] == ["Queue $queue"]
    assert rows[-1]["repeat"] == "queue"
    [top] = [row["gridPos"]["y"] for row in rows[-1:]]
    for panel in PANELS:
        about_queue = all('queue=~"$queue"' in target["expr"] for target in panel["targets"])
        assert about_queue == (panel["gridPos"]["y"] > top), panel["title"]


def test_panels_have_names_and_places_of_their_own() -> None:
    every = BOARD["panels"]
    assert len({panel["id"] for panel in every}) == len(every)
    assert len({panel["title"] for panel in every}) == len(every)
    for one, other in combinations([panel["gridPos"] for panel in every], 2):
        apart = (
            one["x"] + one["w"] <= other["x"]
            or other["x"] + other["w"] <= one["x"]
            or one["y"] + one["h"] <= other["y"]
            or other["y"] + other["h"] <= one["y"]
        )
        assert apart, (one, other)
        assert one["x"] + one["w"] <= 24


def test_a_variable_that_is_not_filled_in_is_noticed() -> None:
    assert filled_in("rate(x[$__rate_interval])") == "rate(x[1m])"
    with pytest.raises(AssertionError):
        filled_in('x{job="$other"}')
