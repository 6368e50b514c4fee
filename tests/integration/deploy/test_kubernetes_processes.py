"""The commands and variables of the trial's pods, run as processes of this machine, do their work.

What a cluster would give is put in its place: folders for volumes, values for secrets, addresses on
loopback for names. The command lines, the rest of the environment, the probes, the signal at the
end and its grace period are those of the manifests.
"""

from __future__ import annotations

import base64
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from orchestrator.cli.processes.services import FIRST_PORT, SERVICES
from outbox.chassis.endpoints.metrics import Metrics
from outbox.chassis.endpoints.queue_metrics import QueueMetrics
from outbox.clock import SystemClock
from outbox.coordination.progress import Progress
from outbox.transports.brokers.figures import QueueFigures
from outbox.transports.brokers.partition_reader import Counts
from outbox.transports.grpc.listen import PORT as GRPC_PORT
from tests.support.checkout import ROOT
from tests.support.deploy import rendering
from tests.support.deploy.pods import Pod, deployed, of_kind, pods
from tests.support.processes.guardian import guardian
from tests.support.processes.waiting import free_port, wait_until

pytestmark = [pytest.mark.timeout(900), pytest.mark.slow]  # for a machine that has much else to do

DEADLINE = 300.0  # seconds; a machine that has nothing else to do needs a few
_SECRETS = {
    ("sagabox-messages", "secrets"): f"one:{base64.b64encode(b'k' * 32).decode()}",
    ("sagabox-blog", "token"): "the-blogs-token",
    ("sagabox-metrics", "token"): "the-token-of-the-figures",
}
_METRIC = re.compile(r"\bsagabox_\w+")


class Place:
    """A folder and ports in place of a cluster."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        first = free_port(2 * len(SERVICES))
        self.ports = {name: first + number for number, name in enumerate(SERVICES)}
        self.grpc_ports = {name: it + len(SERVICES) for name, it in self.ports.items()}
        self.processes: dict[str, subprocess.Popen[bytes]] = {}

    def url(self, service: str) -> str:
        return f"http://127.0.0.1:{self.ports[service]}"

    def run(self, container: dict[str, Any], *more: str) -> subprocess.CompletedProcess[str]:
        """Run the container's command to its end."""
        return subprocess.run(
            [*self.command(container), *more],
            cwd=self.folder,
            env=self.environment(container),
            capture_output=True,
            text=True,
            check=False,
            timeout=DEADLINE,
        )

    def start(self, service: str, pod: Pod) -> None:
        """Start the container of the service; it listens on loopback only."""
        (container,) = pod.spec["containers"]
        command = ["127.0.0.1" if it == "0.0.0.0" else it for it in self.command(container)]
        port = str(FIRST_PORT + SERVICES[service].offset)
        command = [str(self.ports[service]) if it == port else it for it in command]
        with (self.folder / f"{service}.log").open("wb") as log:
            process = subprocess.Popen(
                command,
                cwd=self.folder,
                env=self.environment(container),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        guardian().entrust_process(process.pid)
        self.processes[service] = process

    def stop(self) -> None:
        """End what a test has left running."""
        for process in self.processes.values():
            if process.poll() is None:
                process.kill()
                process.wait(DEADLINE)
            guardian().release_process(process.pid)

    def command(self, container: Mapping[str, Any]) -> list[str]:
        program, *words = container["command"]
        assert program == "sagabox"
        return [str(Path(sys.executable).with_name(program)), *words]

    def environment(self, container: Mapping[str, Any]) -> dict[str, str]:
        # The code is that of this checkout, wherever the program is installed.
        found = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)}
        for entry in container["env"]:
            found[entry["name"]] = self._value(entry, found)
        return found

    def _value(self, entry: Mapping[str, Any], before: Mapping[str, str]) -> str:
        source = entry.get("valueFrom", {})
        if secret := source.get("secretKeyRef"):
            return _SECRETS[secret["name"], secret["key"]]
        if field := source.get("fieldRef"):
            assert field["fieldPath"] == "metadata.namespace"
            return "sagabox"
        value = re.sub(r"\$\((\w+)\)", lambda it: before[it[1]], entry["value"])
        for service in SERVICES:
            value = re.sub(rf"http\+dns://sagabox-{service}-pods:\d+", self.url(service), value)
            by_grpc = f"grpc://127.0.0.1:{self.grpc_ports[service]}"
            value = re.sub(rf"grpc\+dns://sagabox-{service}-pods:\d+", by_grpc, value)
            if entry["name"] == GRPC_PORT and value == str(_grpc_port(service)):
                return str(self.grpc_ports[service])
        return value.replace("sqlite:////data/", f"sqlite:///{self.folder}/")


def _grpc_port(service: str) -> int:
    return FIRST_PORT + SERVICES[service].offset + 100


@contextmanager
def placed(folder: Path) -> Iterator[Place]:
    place = Place(folder)
    try:
        yield place
    finally:
        place.stop()


def listens(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


def is_ready_or_ended(process: subprocess.Popen[bytes], url: str) -> bool:
    if process.poll() is not None:
        return True
    try:
        return httpx.get(url, timeout=10).is_success
    except httpx.TransportError:
        return False


@pytest.mark.parametrize("grpc", ["false", "true"])
def test_the_pods_of_the_trial_migrate_start_work_and_stop(tmp_path: Path, grpc: str) -> None:
    manifests = rendering.rendered(
        *("--values", rendering.VALUES / "trial.yaml", "--set", "monitoring.enabled=true"),
        *("--set", f"grpc={grpc}"),
    )
    with placed(tmp_path) as place:
        for service in SERVICES:
            (first,) = deployed(manifests, service).spec["initContainers"]
            ran = place.run(first)
            assert (ran.returncode, f"{service}_0001" in ran.stdout) == (0, True), ran
        # A pod that starts again migrates again.
        ran = place.run(first)
        assert (ran.returncode, "already" in ran.stdout) == (0, True), ran
        _the_orchestrator_needs_a_token(place, deployed(manifests, "orchestrator"))
        (token_pod,) = (it for it in pods(manifests) if it.kind == "CronJob")
        (container,) = token_pod.containers
        made = place.run(container, "--json")
        (token,) = re.findall(r"sgb_[\w-]+", made.stdout)
        for service in SERVICES:
            place.start(service, deployed(manifests, service))
        for service, process in place.processes.items():
            (container,) = deployed(manifests, service).spec["containers"]
            path = container["readinessProbe"]["httpGet"]["path"]
            ready = partial(is_ready_or_ended, process, place.url(service) + path)
            wait_until(ready, DEADLINE, f"{service} is ready")
            assert process.poll() is None, (tmp_path / f"{service}.log").read_text()
        _an_article_is_deleted(place, token)
        for service, port in place.grpc_ports.items():
            assert listens(port) is (grpc == "true"), service
        _the_figures_have_all_that_is_asked_for(place, token)
        for service, process in place.processes.items():
            process.send_signal(signal.SIGTERM)
            grace = deployed(manifests, service).spec["terminationGracePeriodSeconds"]
            assert process.wait(max(grace, DEADLINE)) in (0, -signal.SIGTERM)


def _the_orchestrator_needs_a_token(place: Place, pod: Pod) -> None:
    """It says so, and listens to no other machine. The page tells the way out."""
    (container,) = pod.spec["containers"]
    ran = place.run(container)
    assert ran.returncode == 2
    assert "sagabox token create NAME --role operator" in ran.stderr


def _an_article_is_deleted(place: Place, token: str) -> None:
    """As a caller in the cluster does it, by the names of the Services."""
    # The names are those that SAGABOX_ALLOWED_HOSTS has to have.
    named = {it: {"host": f"sagabox-{it}.sagabox.svc"} for it in SERVICES}
    blog = {"authorization": "Bearer the-blogs-token"}
    articles = place.url("articles") + "/articles"
    written = httpx.post(
        articles,
        headers=blog | named["articles"],
        json={"title": "Tides", "body": "Twice a day.", "author": "ada"},
        timeout=DEADLINE,
    )
    article = written.raise_for_status().json()["id"]
    deleted = httpx.delete(
        f"{articles}/{article}", headers=blog | named["articles"], timeout=DEADLINE
    )
    run = deleted.raise_for_status().json()["saga_id"]
    assert deleted.headers["location"].startswith("http://sagabox-orchestrator:8000/sagas/")
    headers = {"authorization": f"Bearer {token}"} | named["orchestrator"]

    def completed() -> bool:
        run_at = f"{place.url('orchestrator')}/sagas/{run}"
        answer = httpx.get(run_at, headers=headers, timeout=DEADLINE)
        return answer.is_success and answer.json()["status"] == "COMPLETED"

    wait_until(completed, DEADLINE, "the article is deleted")


def _the_figures_have_all_that_is_asked_for(place: Place, token: str) -> None:
    exported = set()
    for service in SERVICES:
        key = token if service == "orchestrator" else "the-token-of-the-figures"
        answer = httpx.get(
            place.url(service) + "/metrics",
            headers={"authorization": f"Bearer {key}"},
            timeout=DEADLINE,
        )
        exported |= names_in(answer.raise_for_status().text)
    registry = CollectorRegistry()
    # A service that reads a queue has these, too, and one with plain functions has threads.
    QueueMetrics(registry).show([QueueFigures("nats at broker:4222", Counts(), 1, 1)])
    clock = SystemClock()
    with_threads = Metrics(clock, Progress(clock.monotonic))
    with_threads.handler_threads(lambda: 0)
    for each in (registry, with_threads.registry):
        exported |= names_in(generate_latest(each).decode())
    asked = queries()
    assert "sagabox_outbox_unsent_messages" in {
        it for query in asked for it in _METRIC.findall(query)
    }
    assert unknown_in(asked, exported) == set()
    assert unknown_in(["max(sagabox_outbox_unsent_message)"], exported)


def names_in(text: str) -> set[str]:
    """The names by which the figures can be asked for."""
    families = list(text_string_to_metric_families(text))
    suffixes = {"counter": ("_total",), "histogram": ("_bucket", "_count", "_sum")}
    return {f"{it.name}{end}" for it in families for end in suffixes.get(it.type, ("",))}


def queries() -> list[str]:
    """What scalers and alerts ask Prometheus."""
    manifests = rendering.with_values("large")
    found = [
        trigger["metadata"]["query"]
        for it in of_kind(manifests, "ScaledObject")
        for trigger in it["spec"]["triggers"]
    ]
    return found + [
        rule["expr"]
        for it in of_kind(manifests, "PrometheusRule")
        for group in it["spec"]["groups"]
        for rule in group["rules"]
    ]


def unknown_in(asked: list[str], exported: set[str]) -> set[str]:
    return {it for query in asked for it in _METRIC.findall(query)} - exported
