"""Grafana's dashboards, built here and kept in `deploy/grafana/dashboards/`:

python -m tests.support.telemetry.dashboards
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from tests.support.checkout import ROOT
from tests.support.telemetry import panels

FOLDER = ROOT / "deploy" / "grafana" / "dashboards"

_WIDTH, _HEIGHT = 24, 8
_SOURCE = {"type": "prometheus", "uid": "${source}"}
_JOBS = "label_values(sagabox_database_up, job)"


class Kind(StrEnum):
    """How a panel is drawn."""

    LINES = "timeseries"
    NUMBER = "stat"


@dataclass(frozen=True)
class Dashboard:
    """One dashboard: its name is that of its file."""

    name: str
    title: str
    about: str
    panels: Sequence[panels.Panel]

    @property
    def path(self) -> Path:
        """Where it is kept."""
        return FOLDER / f"{self.name}.json"


DASHBOARDS = (
    Dashboard("sagas", "Sagabox: sagas", "How runs stand, and how fast they get on.", panels.SAGAS),
    Dashboard(
        "outbox",
        "Sagabox: messages",
        "What waits to be sent, what was sent, and what was received.",
        panels.OUTBOX,
    ),
    Dashboard(
        "nodes",
        "Sagabox: nodes",
        "Processes: their requests, their work, their clocks and the addresses they use.",
        panels.NODES,
    ),
    Dashboard(
        "database",
        "Sagabox: databases",
        "Whether the databases answer, and what they are asked for.",
        panels.DATABASE,
    ),
)


def text_of(dashboard: Dashboard) -> str:
    """The file of the dashboard."""
    return json.dumps(_model(dashboard), indent=2) + "\n"


def queries() -> Iterator[tuple[str, str, str]]:
    """Each query, with its dashboard's name and its panel's title."""
    for dashboard in DASHBOARDS:
        for panel in dashboard.panels:
            for expression in panel.queries.values():
                yield dashboard.name, panel.title, expression


def _model(dashboard: Dashboard) -> Mapping[str, Any]:
    return {
        "uid": f"sagabox-{dashboard.name}",
        "title": dashboard.title,
        "description": dashboard.about,
        "tags": ["sagabox"],
        "schemaVersion": 39,
        "version": 1,
        "editable": True,
        "refresh": "30s",
        "time": {"from": "now-1h", "to": "now"},
        "timezone": "browser",
        "graphTooltip": 1,
        "links": [
            {
                "type": "dashboards",
                "title": "Sagabox",
                "tags": ["sagabox"],
                "asDropdown": False,
                "includeVars": True,
                "keepTime": True,
            }
        ],
        "templating": {"list": [_source(), _job()]},
        "annotations": {"list": [_alerts()]},
        "panels": _placed(dashboard.panels),
    }


def _source() -> Mapping[str, Any]:
    return {
        "name": "source",
        "label": "Prometheus",
        "type": "datasource",
        "query": "prometheus",
        "refresh": 1,
    }


def _job() -> Mapping[str, Any]:
    return {
        "name": "job",
        "label": "Service",
        "type": "query",
        "datasource": _SOURCE,
        "query": {"query": _JOBS, "refId": "jobs"},
        "definition": _JOBS,
        "refresh": 2,
        "sort": 1,
        "multi": True,
        "includeAll": True,
        "allValue": ".*",
        "current": {"text": "All", "value": "$__all"},
    }


def _alerts() -> Mapping[str, Any]:
    return {
        "name": "Alerts",
        "datasource": _SOURCE,
        "enable": True,
        "iconColor": "red",
        "expr": 'ALERTS{alertname=~"Sagabox.*", alertstate="firing", job=~"$job"}',
        "titleFormat": "{{alertname}}",
        "step": "60s",
    }


def _placed(all_: Sequence[panels.Panel]) -> list[Mapping[str, Any]]:
    """The panels from left to right, and in further lines where one is full."""
    placed: list[Mapping[str, Any]] = []
    x, y = 0, 0
    for number, panel in enumerate(all_, 1):
        if x + panel.width > _WIDTH:
            x, y = 0, y + _HEIGHT
        place = {"x": x, "y": y, "w": panel.width, "h": _HEIGHT}
        placed.append({"id": number, "gridPos": place, **_drawn(panel)})
        x += panel.width
    return placed


def _drawn(panel: panels.Panel) -> Mapping[str, Any]:
    kind = Kind.NUMBER if panel.is_number else Kind.LINES
    defaults: dict[str, Any] = {"unit": panel.unit, "min": 0 if panel.starts_at_0 else None}
    defaults = {name: it for name, it in defaults.items() if it is not None}
    if panel.red_from is not None:
        steps = [{"color": "green", "value": None}, {"color": "red", "value": panel.red_from}]
        defaults["thresholds"] = {"mode": "absolute", "steps": steps}
        defaults["color"] = {"mode": "thresholds"}
    return {
        "type": kind.value,
        "title": panel.title,
        "description": panel.about,
        "datasource": _SOURCE,
        "fieldConfig": {"defaults": defaults, "overrides": []},
        "options": _OPTIONS[kind],
        "targets": [
            {
                "refId": chr(ord("A") + place),
                "datasource": _SOURCE,
                "editorMode": "code",
                "expr": expression,
                "legendFormat": legend,
                "range": True,
                "exemplar": panel.has_exemplars,
            }
            for place, (legend, expression) in enumerate(panel.queries.items())
        ],
    }


_OPTIONS: Mapping[Kind, Mapping[str, Any]] = {
    Kind.LINES: {
        "legend": {"displayMode": "table", "placement": "bottom", "calcs": ["lastNotNull", "max"]},
        "tooltip": {"mode": "multi", "sort": "desc"},
    },
    Kind.NUMBER: {
        "colorMode": "background",
        "graphMode": "area",
        "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
    },
}


def main() -> None:
    """Write all of them."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    for dashboard in DASHBOARDS:
        dashboard.path.write_text(text_of(dashboard), encoding="utf-8")


if __name__ == "__main__":
    main()
