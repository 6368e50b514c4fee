"""Every object that is rendered fits the schema of its kind, in each version that is named."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from functools import cache
from typing import Any

import kubernetes_validate  # type: ignore[import-untyped]  # it comes without types
import pytest
from kubernetes_validate import utils

from tests.support.deploy import rendering
from tests.support.deploy.custom_schemas import problems_of_custom
from tests.support.deploy.pods import named, of_kind, pods
from tests.support.deploy.rendering import ISTIO, KUBERNETES, OVERLAYS, VALUES, Manifest
from tests.support.deploy.restricted import problems_of

VERSIONS = ("1.30", "1.32", "1.34", kubernetes_validate.latest_version())
"""The oldest that the chart takes, those that many have, and the newest whose schemas are known."""
_CUSTOM = ("istio.io", "keda.sh", "monitoring.coreos.com")
_INGRESS = ("--set", "defaults.ingress.host=blog.example", "--set", "defaults.ingress.tlsSecret=a")
_EVERYTHING = (
    *("--values", VALUES / "large.yaml", "--values", ISTIO / "values.yaml", *_INGRESS),
    *("--set", "signingKey=two", "--set", "image.pullSecrets={mine}"),
    *("--set", "grpc=true"),
)


@pytest.fixture(scope="module", autouse=True)
def schemas_are_read_once() -> Iterator[None]:
    """The package reads a file with all definitions anew for each object."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(utils, "schema_contents", cache(utils.schema_contents))
        yield


def is_custom(manifest: Manifest) -> bool:
    group, _, _ = manifest["apiVersion"].partition("/")
    return any(group.endswith(it) for it in _CUSTOM)


@cache
def everything() -> list[Manifest]:
    """All that is rendered anywhere, each object once."""
    every = [
        *(it for overlay in OVERLAYS for it in rendering.with_values(overlay)),
        *(
            it
            for overlay in OVERLAYS
            for it in rendering.kustomized(KUBERNETES / "overlays" / overlay)
        ),
        *rendering.rendered(*_EVERYTHING),
        *rendering.kustomized(ISTIO),
    ]
    return [json.loads(it) for it in sorted({json.dumps(it, sort_keys=True) for it in every})]


def problems_of_core(manifest: Manifest, version: str) -> list[str]:
    """What the schema of that version of Kubernetes has against it; fields that it does not know
    count, too."""
    try:
        kubernetes_validate.validate(manifest, version, strict=True)
    except kubernetes_validate.ValidationError as error:
        return [f"{manifest['kind']} {manifest['metadata']['name']}: {error.message}"]
    return []


@pytest.mark.parametrize("version", VERSIONS)
def test_objects_of_kubernetes_fit_their_schemas(version: str) -> None:
    core = [it for it in everything() if not is_custom(it)]
    kinds = {it["kind"] for it in core}
    assert kinds >= {
        *("CronJob", "Deployment", "HorizontalPodAutoscaler", "Ingress", "Job", "Namespace"),
        *("NetworkPolicy", "PersistentVolumeClaim", "PodDisruptionBudget", "Service"),
        "ServiceAccount",
    }
    assert [it for manifest in core for it in problems_of_core(manifest, version)] == []


def test_custom_resources_fit_their_schemas() -> None:
    custom = [it for it in everything() if is_custom(it)]
    assert {it["kind"] for it in custom} >= {
        *("AuthorizationPolicy", "DestinationRule", "PeerAuthentication", "VirtualService"),
        *("ScaledObject", "ServiceMonitor"),
    }
    assert problems_of_custom(custom) == {}


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize(
    ("kind", "path", "value"),
    [
        ("Deployment", ("spec", "replica"), 2),
        ("Deployment", ("spec", "template", "spec", "containers", 0, "livenessprobe"), {}),
        ("NetworkPolicy", ("spec", "policyTypes"), "Ingress"),
    ],
)
def test_a_wrong_field_of_an_object_is_seen(
    version: str, kind: str, path: tuple[str | int, ...], value: object
) -> None:
    manifest = copy.deepcopy(named(everything_small(), kind, "sagabox-orchestrator"))
    put(manifest, path, value)
    assert problems_of_core(manifest, version)


@pytest.mark.parametrize(
    ("kind", "path", "value"),
    [
        ("ScaledObject", ("spec", "maxReplicaCount"), "many"),
        ("ServiceMonitor", ("spec", "endpoints"), None),
        ("VirtualService", ("spec", "http", 0, "retries", "attempts"), "none"),
        ("DestinationRule", ("spec", "trafficPolicy", "outlierDetection", "interval"), 1),
        ("PeerAuthentication", ("spec", "mtls", "mode"), "STRICTLY"),
        ("AuthorizationPolicy", ("spec", "action"), "REFUSE"),
    ],
)
def test_a_wrong_field_of_a_custom_resource_is_seen(
    kind: str, path: tuple[str | int, ...], value: object
) -> None:
    manifest = copy.deepcopy(of_kind(everything(), kind)[0])
    put(manifest, path, value)
    assert len(problems_of_custom([manifest])) == 1


def everything_small() -> list[Manifest]:
    return rendering.with_values("small")


def put(manifest: Any, path: tuple[str | int, ...], value: object) -> None:
    """Set what is at this path in the manifest; None removes it."""
    *way, last = path
    for key in way:
        manifest = manifest[key]
    if value is None:
        del manifest[last]
    else:
        manifest[last] = value


def test_every_pod_keeps_to_the_restricted_profile() -> None:
    found = pods(everything())
    assert {it.kind for it in found} == {"CronJob", "Deployment", "Job"}
    assert [it for pod in found for it in problems_of(pod)] == []


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("hostNetwork",), True),
        (("hostPID",), True),
        (("hostIPC",), True),
        (("volumes", 0), {"name": "tmp", "hostPath": {"path": "/tmp"}}),
        (("securityContext", "sysctls"), [{"name": "net.ipv4.tcp_syncookies", "value": "0"}]),
        (("securityContext", "runAsUser"), 0),
        (("securityContext", "seLinuxOptions"), {"type": "spc_t"}),
        (("containers", 0, "securityContext"), None),
        (("containers", 0, "securityContext", "privileged"), True),
        (("containers", 0, "securityContext", "allowPrivilegeEscalation"), None),
        (("containers", 0, "securityContext", "runAsNonRoot"), False),
        (("containers", 0, "securityContext", "runAsUser"), 0),
        (("containers", 0, "securityContext", "seccompProfile"), {"type": "Unconfined"}),
        (("containers", 0, "securityContext", "capabilities", "drop"), ["NET_RAW"]),
        (("containers", 0, "securityContext", "capabilities", "add"), ["SYS_ADMIN"]),
        (("containers", 0, "securityContext", "procMount"), "Unmasked"),
        (("containers", 0, "securityContext", "readOnlyRootFilesystem"), None),
        (("containers", 0, "securityContext", "seLinuxOptions"), {"user": "root"}),
        (("containers", 0, "ports", 0, "hostPort"), 8000),
        (("initContainers", 0, "securityContext", "privileged"), True),
    ],
    ids=lambda it: ".".join(map(str, it)) if isinstance(it, tuple) else None,
)
def test_what_the_restricted_profile_forbids_is_seen(
    path: tuple[str | int, ...], value: object
) -> None:
    deployment = copy.deepcopy(
        named(rendering.with_values("trial"), "Deployment", "sagabox-articles")
    )
    put(deployment["spec"]["template"]["spec"], path, value)
    (pod,) = pods([deployment])
    assert problems_of(pod)
