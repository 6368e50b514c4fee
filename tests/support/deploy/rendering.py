"""The chart as helm renders it, the overlays as kustomize does, and the files made of them, which
`python -m tests.support.deploy.rendering` writes, and a test compares."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]  # PyYAML comes without types

from tests.support.checkout import ROOT
from tests.support.deploy.tools import run

Manifest = dict[str, Any]

KUBERNETES = ROOT / "deploy" / "kubernetes"
CHART = KUBERNETES / "chart"
VALUES = KUBERNETES / "values"
ISTIO = ROOT / "deploy" / "istio"
RULES = ROOT / "deploy" / "prometheus" / "rules"
"""The alerts for any Prometheus. The chart can read only what is in its own folder..."""
CHART_RULES = CHART / "rules"
"""...so it has a copy of them."""

NAME = "sagabox"
"""The release, and its namespace."""
OVERLAYS = ("trial", "small", "large")

_PARTS: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "volumes": ("trial", ("PersistentVolumeClaim",)),
    "autoscaling": ("large", ("HorizontalPodAutoscaler", "ScaledObject")),
    "monitoring": ("large", ("ServiceMonitor", "PrometheusRule")),
}
"""What overlays add to the base: by folder, the values that it is rendered with, and its kinds."""
_GRPC = ("--set", "grpc=true")
_CHANGED_BY_GRPC: Mapping[str, tuple[str, ...]] = {
    "Service": ("spec", "ports"),
    "NetworkPolicy": ("spec", "ingress"),
    "Deployment": ("spec", "template", "spec", "containers"),
}
"""What `grpc: true` changes, by kind: the component of kustomize has these alone..."""
_VARIABLES_OF_GRPC = ("SAGABOX_GRPC_PORT", "SAGABOX_PEERS")
"""...and these variables of the containers."""
_HEAD = "# Rendered from the chart; `python -m tests.support.deploy.rendering` writes it.\n"


class _Dumper(yaml.SafeDumper):  # type: ignore[misc]  # PyYAML comes without types
    """Writes each value out, also one that stands twice."""

    def ignore_aliases(self, data: object) -> bool:
        """See the class."""
        return True


def rendered(*options: str | Path, chart: Path = CHART) -> list[Manifest]:
    """What helm makes of the chart with these options. Raises ToolFailed."""
    return _rendered(chart, tuple(map(str, options)))


def with_values(*names: str) -> list[Manifest]:
    """The same with these files of `values/`."""
    options = [it for name in names for it in ("--values", VALUES / f"{name}.yaml")]
    return rendered(*options)


@cache
def _rendered(chart: Path, options: tuple[str, ...]) -> list[Manifest]:
    return loaded(run("helm", "template", NAME, chart, "--namespace", NAME, *options))


@cache
def kustomized(folder: Path) -> list[Manifest]:
    """What kustomize makes of the folder. Raises ToolFailed."""
    return loaded(run("kubectl", "kustomize", folder))


def loaded(text: str) -> list[Manifest]:
    """The objects in the text."""
    return [it for it in yaml.safe_load_all(text) if it is not None]


def files() -> Mapping[Path, str]:
    """Each file that is made from others, with the text that it is to have."""
    made = {KUBERNETES / "base" / "sagabox.yaml": _text(_without_parts(rendered()))}
    for folder, (values, kinds) in _PARTS.items():
        chosen = [it for it in with_values(values) if it["kind"] in kinds]
        made[KUBERNETES / "parts" / folder / "sagabox.yaml"] = _text(chosen)
    made[KUBERNETES / "parts" / "grpc" / "sagabox.yaml"] = _text(_changes_by_grpc())
    made.update({CHART_RULES / it.name: it.read_text() for it in sorted(RULES.glob("*.yaml"))})
    return made


def strays() -> Sequence[Path]:
    """Rules of the chart of which there is no original."""
    return [it for it in CHART_RULES.glob("*.yaml") if not (RULES / it.name).exists()]


def _changes_by_grpc() -> Sequence[Manifest]:
    """Patches that make of the base what the chart renders with gRPC."""
    before, patches = rendered(), []
    for manifest in rendered(*_GRPC):
        if manifest in before:
            continue
        patch: Any = {it: manifest[it] for it in ("apiVersion", "kind")}
        patch["metadata"] = {it: manifest["metadata"][it] for it in ("name", "namespace")}
        within, value, path = patch, manifest, _CHANGED_BY_GRPC[manifest["kind"]]
        for key in path[:-1]:
            within, value = within.setdefault(key, {}), value[key]
        within[path[-1]] = value[path[-1]]
        if manifest["kind"] == "Deployment":
            # The rest of a container is that of the base, such as its image.
            told = ("name", "ports", "env")
            within[path[-1]] = [{key: it[key] for key in told} for it in value[path[-1]]]
            for container in within[path[-1]]:
                container["env"] = [
                    it for it in container["env"] if it["name"] in _VARIABLES_OF_GRPC
                ]
        patches.append(patch)
    return patches


def _without_parts(manifests: Iterable[Manifest]) -> list[Manifest]:
    kinds = {kind for _, those in _PARTS.values() for kind in those}
    return [it for it in manifests if it["kind"] not in kinds]


def _text(manifests: Sequence[Manifest]) -> str:
    documents = [yaml.dump(it, Dumper=_Dumper, sort_keys=False, width=10_000) for it in manifests]
    return _HEAD + "---\n".join(documents)


def main() -> None:
    """Write them. The rules come first, since the chart is rendered with them."""
    CHART_RULES.mkdir(exist_ok=True)
    for path in strays():
        path.unlink()
    for path in sorted(RULES.glob("*.yaml")):
        (CHART_RULES / path.name).write_text(path.read_text())
    for path, text in files().items():
        path.write_text(text)


if __name__ == "__main__":
    main()
