"""The chart and the overlays render, say the same, and are what is committed."""

from __future__ import annotations

import copy
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.support.deploy import rendering
from tests.support.deploy.pods import deployed, of_kind
from tests.support.deploy.rendering import CHART, KUBERNETES, OVERLAYS, VALUES, Manifest
from tests.support.deploy.tools import ToolFailed, run


def comparable(manifests: list[Manifest]) -> dict[str, Any]:
    """The manifests by kind and name, with lists whose order means nothing sorted. The namespace's
    own object is left out: helm does not make the namespace into which it installs."""
    found = {}
    for manifest in copy.deepcopy(manifests):
        if manifest["kind"] != "Namespace":
            key = f"{manifest['kind']} {manifest['metadata']['name']}"
            assert key not in found, f"{key} is there twice"
            found[key] = _sorted(manifest)
    return found


def _sorted(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _sorted(it) for key, it in value.items()}
    if isinstance(value, list):
        items = [_sorted(it) for it in value]
        if all(isinstance(it, dict) and "name" in it for it in items):
            return sorted(items, key=lambda it: str(it["name"]))
        return items
    return value


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_the_chart_has_nothing_that_helm_finds_wrong(overlay: str) -> None:
    told = run("helm", "lint", "--strict", CHART, "--values", VALUES / f"{overlay}.yaml")
    assert "1 chart(s) linted, 0 chart(s) failed" in told


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_an_overlay_is_what_the_chart_makes_of_the_values_of_that_name(overlay: str) -> None:
    by_kustomize = comparable(rendering.kustomized(KUBERNETES / "overlays" / overlay))
    by_helm = comparable(rendering.with_values(overlay))
    assert by_kustomize.keys() == by_helm.keys()
    different = {name: it for name, it in by_kustomize.items() if it != by_helm[name]}
    assert different == {name: by_helm[name] for name in different}


def test_the_component_for_grpc_makes_of_an_overlay_what_the_chart_does(tmp_path: Path) -> None:
    kubernetes = tmp_path / "kubernetes"
    shutil.copytree(KUBERNETES, kubernetes)
    with (kubernetes / "overlays" / "small" / "kustomization.yaml").open("a") as overlay:
        overlay.write("components:\n  - ../../parts/grpc\n")
    by_kustomize = comparable(rendering.kustomized(kubernetes / "overlays" / "small"))
    small = ("--values", VALUES / "small.yaml")
    by_helm = comparable(rendering.rendered(*small, "--set", "grpc=true"))
    assert by_kustomize.keys() == by_helm.keys()
    assert [it for it in by_helm if by_kustomize[it] != by_helm[it]] == []
    assert by_helm != comparable(rendering.rendered(*small))


def test_a_participant_takes_grpc_where_it_has_a_port_for_it() -> None:
    options = [
        *("--set", "grpc=true", "--set", "blog.enabled=false"),
        *("--set", "participants.stock.image=stock:1", "--set", "participants.stock.port=8080"),
        *("--set", "participants.stock.command={sagabox,run,stock}"),
    ]
    for more, address, variables in (
        ([], "http+dns://sagabox-stock-pods:8080", {}),
        (
            ["--set", "participants.stock.grpcPort=8180"],
            "grpc+dns://sagabox-stock-pods:8180",
            # Its own application may listen, too: not on loopback only.
            {"SAGABOX_GRPC_PORT": "8180", "SAGABOX_GRPC_HOST": "0.0.0.0"},
        ),
    ):
        (container,) = deployed(rendering.rendered(*options, *more), "stock").spec["containers"]
        told = {it["name"]: it.get("value") for it in container["env"]}
        assert f"stock={address}" in str(told["SAGABOX_PEERS"]).split(",")
        assert {it: told[it] for it in told if "GRPC" in it} == variables
        assert [it["name"] for it in container["ports"]] == ["http", "grpc"][: 2 if more else 1]


def test_what_is_rendered_into_the_repository_is_what_the_chart_renders() -> None:
    made = rendering.files()
    assert [it for it in made if not it.exists() or it.read_text() != made[it]] == [], (
        "write them anew: python -m tests.support.deploy.rendering"
    )
    assert rendering.strays() == []


def test_a_rule_of_the_chart_that_has_gone_stale_is_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("RULES", "CHART_RULES"):
        monkeypatch.setattr(rendering, name, tmp_path / name)
        (tmp_path / name).mkdir()
    (tmp_path / "RULES" / "sagas.yaml").write_text("groups: []\n")
    (tmp_path / "CHART_RULES" / "old.yaml").write_text("groups: []\n")
    wanted = tmp_path / "CHART_RULES" / "sagas.yaml"
    assert rendering.files()[wanted] == "groups: []\n"
    assert [it.name for it in rendering.strays()] == ["old.yaml"]


def test_the_rules_of_the_chart_become_one_object_as_they_are(tmp_path: Path) -> None:
    """With a chart of its own, so that it holds whichever rules there are."""
    chart = tmp_path / "chart"
    shutil.copytree(CHART, chart)
    shutil.rmtree(chart / "rules")
    (chart / "rules").mkdir()
    alert = {
        "alert": "SagaStuck",
        "expr": 'sagabox_sagas{status="STUCK"} > 0',
        "annotations": {"summary": "{{ $labels.name }} needs a person"},
    }
    groups = [{"name": name, "rules": [alert]} for name in ("sagas", "outbox")]
    for group in groups:
        text = json.dumps({"groups": [group]})  # which is YAML, too
        (chart / "rules" / f"{group['name']}.yaml").write_text(text)
    on = rendering.rendered("--set", "monitoring.enabled=true", chart=chart)
    (made,) = of_kind(on, "PrometheusRule")
    assert sorted(made["spec"]["groups"], key=lambda it: str(it["name"]), reverse=True) == groups
    assert of_kind(rendering.rendered(chart=chart), "PrometheusRule") == []


def test_a_participant_of_ones_own_has_all_that_the_blog_has(tmp_path: Path) -> None:
    values = {
        "blog": {"enabled": False},
        "orchestrator": {"sagas": ["shop.sagas:checkout"]},
        "participants": {
            "stock": {
                "image": "registry.example/stock:1.4",
                "command": ["sagabox", "run", "shop.stock:service", "--host", "0.0.0.0"],
                "port": 8080,
                "migrate": ["alembic", "upgrade", "head"],
                "database": {"variable": "STOCK_DATABASE", "name": "stock", "key": "url"},
                "env": {"SHOP_REGION": "north"},
            }
        },
    }
    path = tmp_path / "values.yaml"
    path.write_text(json.dumps(values))
    made = rendering.rendered("--values", path)
    kinds = ("Deployment", "Job", "NetworkPolicy", "PodDisruptionBudget", "Service")
    assert [it["metadata"]["name"] for it in of_kind(made, *kinds) if "stock" in str(it)]
    for kind in (*kinds, "ServiceAccount"):
        assert any("stock" in it["metadata"]["name"] for it in of_kind(made, kind)), kind
    assert "articles" not in json.dumps(made)
    (container,) = deployed(made, "stock").spec["containers"]
    assert container["image"] == "registry.example/stock:1.4"
    variables = {it["name"]: it for it in container["env"]}
    assert variables.keys() == {
        *("SAGABOX_SECRETS", "SAGABOX_PEERS", "SAGABOX_LOG_FORMAT", "SAGABOX_LOG_LEVEL"),
        *("STOCK_DATABASE", "SHOP_REGION"),
    }
    peers = "orchestrator=http+dns://sagabox-orchestrator-pods:8000,stock=http+dns://sagabox-stock-pods:8080"
    assert variables["SAGABOX_PEERS"]["value"] == peers
    (node,) = deployed(made, "orchestrator").spec["containers"]
    assert {"name": "SAGABOX_SAGAS", "value": "shop.sagas:checkout"} in node["env"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--set", "defaults.replica=3"], ["defaults", "replica"]),
        (["--set", "defaults.replicas=none"], ["/replicas", "integer"]),
        (["--set", "database=mysql"], ["/database", "postgresql", "sqlite"]),
        (["--set", "orchestrator.database.name="], ["orchestrator/database/name", "pattern"]),
        (["--set", "orchestrator.sagas={shop.sagas}"], ["/sagas/0", "pattern"]),
        (["--set", "participants.stock.port=8080"], ["/participants/stock", "image", "command"]),
        (["--set", "monitoring.prometheusUrl=prometheus"], ["/prometheusUrl", "pattern"]),
        (["--set", "grpc=yes"], ["/grpc", "boolean"]),
        (
            [
                *("--set", "participants.stock.image=a:1", "--set", "participants.stock.port=1"),
                *("--set", "participants.stock.command={a}"),
                *("--set", "participants.stock.grpcPort=2"),
            ],
            ["stock has a grpcPort, and grpc is false", "set grpc=true"],
        ),
        (
            [
                *("--set", "participants.stock.image=a:1", "--set", "participants.stock.port=1"),
                *("--set", "participants.stock.command={a}", "--set", "grpc=true"),
                *("--set", "participants.stock.grpcPort=1"),
            ],
            ["stock has port and grpcPort 1", "a port of its own"],
        ),
        (["--set", "blog.enabled=false"], ["name yours in participants or peers"]),
        (["--set", "database=sqlite"], ["articles has 2 replicas", "set defaults.replicas=1"]),
        (
            ["--set", "defaults.autoscaling.by=messages"],
            ["scales by messages", "set monitoring.enabled=true"],
        ),
        (
            ["--set", "defaults.autoscaling.min=9"],
            ["min 9 above max 8", "set min to at most max"],
        ),
        (
            [
                *("--set", "orchestrator.autoscaling.by=cpu"),
                *("--set", "orchestrator.autoscaling.max=17"),
            ],
            ["at most 16 nodes share the runs", "set it to 16 or less"],
        ),
        (
            ["--set", "orchestrator.ingress.paths={/sagas,/}"],
            ["orchestrator has /,", "would publish /messages"],
        ),
        (
            ["--set", "blog.articles.ingress.paths={/messages}"],
            ["articles has /messages,", "would publish /messages"],
        ),
        (
            ["--set", "defaults.env.SAGABOX_PEERS=a=http://a"],
            ["env of", "names SAGABOX_PEERS, which the chart sets itself"],
        ),
        (["--set", "peers.articles=http://a:1"], ["peers.articles is a service of this release"]),
        (
            [
                "--set",
                "defaults.ingress.host=a.example",
                "--set",
                "blog.articles.ingress.paths=null",
            ],
            ["ingress of articles has a host and no paths"],
        ),
        (["--kube-version", "1.29.0"], ["1.30.0", "1.29.0"]),
    ],
    ids=lambda it: " ".join(it) if isinstance(it, list) else None,
)
def test_a_mistake_in_the_values_is_told(options: list[str], said: list[str]) -> None:
    with pytest.raises(ToolFailed) as caught:
        rendering.rendered(*options)
    assert [it for it in said if it not in str(caught.value)] == [], str(caught.value)


def test_the_name_of_a_service_of_the_chart_is_refused_for_ones_own() -> None:
    own = "participants.articles"
    with pytest.raises(ToolFailed, match=r"participants\.articles has the name of a service"):
        rendering.rendered(
            *(
                "--set",
                f"{own}.image=a:1",
                "--set",
                f"{own}.port=1",
                "--set",
                f"{own}.command={{a}}",
            )
        )
