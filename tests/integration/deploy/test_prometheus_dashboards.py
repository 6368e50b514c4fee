"""Grafana's dashboards are what the code builds, and fit together."""

from __future__ import annotations

import json
import re
from itertools import combinations
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]  # PyYAML comes without types

from tests.support.checkout import ROOT
from tests.support.telemetry import dashboards
from tests.support.telemetry.dashboards import DASHBOARDS, FOLDER, Dashboard
from tests.support.telemetry.rules import PAGE, metrics_in

GRAFANA = ROOT / "deploy" / "grafana"


def test_the_files_are_what_the_code_builds() -> None:
    made = {it.path.name: dashboards.text_of(it) for it in DASHBOARDS}
    kept = {it.name: it.read_text("utf-8") for it in FOLDER.iterdir()}
    assert kept == made, "run `python -m tests.support.telemetry.dashboards`"


@pytest.fixture(params=DASHBOARDS, ids=lambda it: it.name)
def model(request: pytest.FixtureRequest) -> dict[str, Any]:
    dashboard: Dashboard = request.param
    read: dict[str, Any] = json.loads(dashboard.path.read_text("utf-8"))
    return read


def test_panels_lie_beside_each_other_and_say_what_they_show(model: dict[str, Any]) -> None:
    panels = model["panels"]
    assert len({it["id"] for it in panels}) == len({it["title"] for it in panels}) == len(panels)
    assert all(it["description"].endswith(".") for it in panels)
    for one, other in combinations([it["gridPos"] for it in panels], 2):
        assert (
            one["x"] + one["w"] <= other["x"]
            or other["x"] + other["w"] <= one["x"]
            or one["y"] + one["h"] <= other["y"]
            or other["y"] + other["h"] <= one["y"]
        )
    assert all(it["gridPos"]["x"] + it["gridPos"]["w"] <= 24 for it in panels)


def test_every_query_asks_the_chosen_source_for_the_chosen_services(model: dict[str, Any]) -> None:
    variables = {it["name"] for it in model["templating"]["list"]}
    assert variables == {"source", "job"}
    for panel in model["panels"]:
        for target in panel["targets"]:
            assert target["datasource"]["uid"] == "${source}"
            expression = target["expr"]
            # Every series that a panel asks for, in any way, is one of the chosen services.
            named = re.findall(r"\b(?:sagabox_\w+|up|scrape_\w+)\{", expression)
            assert named
            assert expression.count('{job=~"$job"') == len(named)


def test_every_query_asks_for_metrics_that_the_page_names() -> None:
    listed = set(re.findall(r"^\| `(sagabox_\w+)", PAGE.read_text("utf-8"), re.M))
    for _, title, expression in dashboards.queries():
        asked = {re.sub("_(count|sum|bucket)$", "", it) for it in metrics_in(expression)}
        assert asked <= listed, title


def test_each_metric_that_the_page_names_is_on_a_dashboard() -> None:
    metrics = PAGE.read_text("utf-8").partition("<!-- alerts -->")[0]
    listed = set(re.findall(r"^\| `(sagabox_\w+)", metrics, re.M))
    shown = {
        re.sub("_(count|sum|bucket)$", "", metric)
        for _, _, expression in dashboards.queries()
        for metric in metrics_in(expression)
    }
    assert listed - shown == set()


def test_grafana_is_told_where_the_dashboards_and_prometheus_are() -> None:
    (source,) = _read("datasources/prometheus.yaml")["datasources"]
    assert (source["type"], source["url"]) == ("prometheus", "http://prometheus:9090")
    (provider,) = _read("dashboards/sagabox.yaml")["providers"]
    assert provider["options"]["path"] == "/var/lib/grafana/dashboards"


def _read(name: str) -> dict[str, Any]:
    read: dict[str, Any] = yaml.safe_load((GRAFANA / "provisioning" / name).read_text("utf-8"))
    return read
