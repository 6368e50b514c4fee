"""The profile `restricted` of the Pod Security Standards, field by field."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tests.support.deploy.pods import Pod

_VOLUMES = {
    *("configMap", "csi", "downwardAPI", "emptyDir", "ephemeral"),
    *("persistentVolumeClaim", "projected", "secret"),
}
_HOST = ("hostNetwork", "hostPID", "hostIPC")
_SECCOMP = ("RuntimeDefault", "Localhost")
_SELINUX = ("container_t", "container_init_t", "container_kvm_t", "container_engine_t", "", None)


def problems_of(pod: Pod) -> list[str]:
    """What the profile forbids, a sentence each; and a root file system that can be written, which
    the profile allows and this project does not."""
    return [f"{pod.kind} {pod.name}: {it}" for it in _problems(pod)]


def _problems(pod: Pod) -> Iterator[str]:
    spec = pod.spec
    yield from (f"{name} is set" for name in _HOST if spec.get(name))
    for volume in spec.get("volumes", []):
        if wrong := set(volume) - {"name", *_VOLUMES}:
            yield f"volume {volume['name']} is a {', '.join(sorted(wrong))}"
    own = spec.get("securityContext", {})
    if own.get("sysctls"):
        yield "sysctls are set"
    yield from _of_selinux("the pod", own)
    for container in pod.containers:
        yield from _of_container(container, own)


def _of_container(container: dict[str, Any], of_pod: dict[str, Any]) -> Iterator[str]:
    name, own = container["name"], container.get("securityContext", {})
    inherited = {**of_pod, **own}
    if own.get("privileged"):
        yield f"{name} is privileged"
    if own.get("allowPrivilegeEscalation") is not False:
        yield f"{name} may gain privileges"
    if inherited.get("runAsNonRoot") is not True:
        yield f"{name} may run as root"
    if inherited.get("runAsUser") == 0:
        yield f"{name} runs as root"
    if inherited.get("seccompProfile", {}).get("type") not in _SECCOMP:
        yield f"{name} has no seccomp profile"
    capabilities = own.get("capabilities", {})
    if "ALL" not in capabilities.get("drop", []):
        yield f"{name} keeps capabilities"
    if set(capabilities.get("add", [])) - {"NET_BIND_SERVICE"}:
        yield f"{name} gets capabilities"
    if own.get("procMount", "Default") != "Default":
        yield f"{name} sees all of /proc"
    if own.get("readOnlyRootFilesystem") is not True:
        yield f"{name} may write to its root"
    if any("hostPort" in port for port in container.get("ports", [])):
        yield f"{name} takes a port of the host"
    yield from _of_selinux(name, own)


def _of_selinux(whose: str, context: dict[str, Any]) -> Iterator[str]:
    options = context.get("seLinuxOptions", {})
    if options.get("type") not in _SELINUX or options.get("user") or options.get("role"):
        yield f"{whose} has SELinux options of its own"
