"""The pods in manifests of every kind, and what their containers are told."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from tests.support.deploy.rendering import Manifest

_TEMPLATES = {
    "Deployment": ("spec", "template"),
    "Job": ("spec", "template"),
    "CronJob": ("spec", "jobTemplate", "spec", "template"),
}


@dataclass(frozen=True)
class Pod:
    """The template of pods in a manifest."""

    kind: str
    name: str
    template: dict[str, Any]

    @property
    def spec(self) -> dict[str, Any]:
        """What the pods are."""
        spec: dict[str, Any] = self.template["spec"]
        return spec

    @property
    def containers(self) -> list[dict[str, Any]]:
        """All of them, those that run first included."""
        return [*self.spec.get("initContainers", []), *self.spec["containers"]]

    @property
    def component(self) -> str:
        """What the pods are for: a service's name, or that of a task."""
        component: str = self.template["metadata"]["labels"]["app.kubernetes.io/component"]
        return component


def pods(manifests: Iterable[Manifest]) -> list[Pod]:
    """Those of all manifests that make any."""
    return list(_pods(manifests))


def _pods(manifests: Iterable[Manifest]) -> Iterator[Pod]:
    for manifest in manifests:
        if path := _TEMPLATES.get(manifest["kind"]):
            template: Any = manifest
            for key in path:
                template = template[key]
            yield Pod(manifest["kind"], manifest["metadata"]["name"], template)


def deployed(manifests: Iterable[Manifest], component: str) -> Pod:
    """The pods of the deployment of one service."""
    (found,) = (
        it for it in pods(manifests) if (it.kind, it.component) == ("Deployment", component)
    )
    return found


def of_kind(manifests: Iterable[Manifest], *kinds: str) -> list[Manifest]:
    """Those of these kinds."""
    return [it for it in manifests if it["kind"] in kinds]


def named(manifests: Iterable[Manifest], kind: str, name: str) -> Manifest:
    """The one of that kind and name."""
    (found,) = (it for it in of_kind(manifests, kind) if it["metadata"]["name"] == name)
    return found
