"""What manifests name is what the code has: commands, variables, probes, ports, paths and times."""

from __future__ import annotations

import copy
import re
from pathlib import Path
from typing import Any

import pytest

from orchestrator.api_grpc.v1 import runs_pb2
from orchestrator.cli.processes.services import FIRST_PORT, SERVICES
from orchestrator.store.sharding import SHARDS
from outbox.chassis.settings import ServiceSettings
from outbox.transports.addresses.destination import Destination, Source
from outbox.transports.grpc.addresses import grpc_destination, is_grpc
from outbox.transports.grpc.transport import DELIVER
from tests.support.checkout import ROOT
from tests.support.deploy import rendering
from tests.support.deploy.facts import (
    longest_check,
    longest_stop,
    problem_of_command,
    problems_of_environment,
    problems_of_probes,
    variables_of,
    variables_of_migrations,
)
from tests.support.deploy.pods import deployed, named, of_kind, pods
from tests.support.deploy.rendering import ISTIO, OVERLAYS, VALUES, Manifest
from tests.support.repository.routes import table_of

_SETS: dict[str, tuple[str | Path, ...]] = {
    **{it: ("--values", VALUES / f"{it}.yaml") for it in OVERLAYS},
    "everything": (
        *("--values", VALUES / "large.yaml", "--set", "signingKey=two"),
        *("--set", "orchestrator.sagas={shop.sagas:checkout}", "--set", "trustedProxies=10.0.0.1"),
        *("--set", "defaults.ingress.host=blog.example", "--set", "defaults.env.SAGABOX_LEASE=30"),
    ),
    "istio": ("--values", ISTIO / "values.yaml"),
    "grpc": ("--set", "grpc=true"),
    "istio with grpc": ("--values", ISTIO / "values.yaml", "--set", "grpc=true"),
}
_RUNS = runs_pb2.DESCRIPTOR.services_by_name["Runs"]
_WATCH = f"/{_RUNS.full_name}/{_RUNS.methods_by_name['Watch'].name}"
every_set = pytest.mark.parametrize("of", _SETS)


def made(of: str) -> list[Manifest]:
    return rendering.rendered(*_SETS[of])


@every_set
def test_every_command_is_one_that_the_terminal_takes(of: str) -> None:
    commands = [it["command"] for pod in pods(made(of)) for it in pod.containers]
    assert {" ".join(it[:2]) for it in commands} == {
        *("sagabox serve", "sagabox migrate", "sagabox token"),
    }
    assert {" ".join(it): problem_of_command(*it) for it in commands} == {
        " ".join(it): None for it in commands
    }


@pytest.mark.parametrize(
    "command",
    [
        "sagabox serve orchestrators",
        "sagabox serve orchestrator --hosts 0.0.0.0",
        "sagabox serve orchestrator --port none",
        "sagabox migrate upgrades orchestrator",
        "sagabox migrate upgrade orchestrator head --waits 3",
        "sagabox token create first --role king",
        "sagaboxes serve orchestrator",
    ],
)
def test_a_wrong_command_is_seen(command: str) -> None:
    assert problem_of_command(*command.split())


@every_set
def test_every_variable_is_read_by_the_program_that_gets_it(of: str) -> None:
    for pod in pods(made(of)):
        for container in pod.containers:
            service = pod.component.removeprefix("migrate-")
            service = "orchestrator" if service == "first-token" else service
            known = variables_of(service)
            if "serve" not in container["command"]:
                # What the values add goes to what runs once, too.
                known = variables_of_migrations(service) | {"SAGABOX_LEASE"}
            assert list(problems_of_environment(container, known)) == [], pod.name


@pytest.mark.parametrize(
    ("entry", "problem"),
    [
        ({"name": "SAGABOX_PEER", "value": "a=http://a"}, "no program reads SAGABOX_PEER"),
        ({"name": "SAGABOX_METRICS_TOKEN", "value": "a"}, "no program reads SAGABOX_METRICS_TOKEN"),
        ({"name": "SAGABOX_PEERS", "value": "a=http://a"}, "a variable stands twice"),
        (
            {"name": "SAGABOX_ROOT_PATH", "value": "/$(LATER)"},
            "SAGABOX_ROOT_PATH uses LATER, which is not set before it",
        ),
    ],
)
def test_a_wrong_variable_is_seen(entry: dict[str, str], problem: str) -> None:
    (container,) = copy.deepcopy(deployed(made("small"), "orchestrator").spec["containers"])
    container["env"].append(entry)
    assert list(problems_of_environment(container, variables_of("orchestrator"))) == [problem]


@every_set
@pytest.mark.parametrize("service", SERVICES)
def test_every_probe_asks_what_the_service_has_where_it_listens(of: str, service: str) -> None:
    assert list(problems_of_probes(deployed(made(of), service), service)) == []


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("livenessProbe", "httpGet", "path"), "/healthz"),
        (("livenessProbe", "httpGet", "path"), "/readyz"),
        (("readinessProbe", "httpGet", "port"), "https"),
        (("ports", 0, "containerPort"), 8080),
        (("ports", 0, "name"), "grpc"),
        (("command", 6), "8080"),
    ],
)
def test_a_wrong_probe_or_port_is_seen(path: tuple[str | int, ...], value: object) -> None:
    pod = copy.deepcopy(deployed(made("small"), "orchestrator"))
    within: Any = pod.spec["containers"][0]
    for key in path[:-1]:
        within = within[key]
    assert within[path[-1]] != value
    within[path[-1]] = value
    assert list(problems_of_probes(pod, "orchestrator"))


@every_set
def test_the_times_fit_those_of_the_code(of: str) -> None:
    for service in SERVICES:
        pod = deployed(made(of), service)
        (container,) = pod.spec["containers"]
        pause = container["lifecycle"]["preStop"]["sleep"]["seconds"]
        assert pod.spec["terminationGracePeriodSeconds"] >= pause + longest_stop()
        assert container["readinessProbe"]["timeoutSeconds"] > longest_check()
        # A service whose database is slow or away stays alive: the probe of life asks neither.
        assert container["livenessProbe"]["httpGet"]["path"] == "/livez"


@every_set
def test_pods_get_no_token_of_the_cluster_and_no_variables_of_services(of: str) -> None:
    for pod in pods(made(of)):
        assert pod.spec["automountServiceAccountToken"] is False
        # SAGABOX_ARTICLES_PORT and the like would look like settings.
        assert pod.spec["enableServiceLinks"] is False
        assert all(it["resources"]["limits"]["memory"] for it in pod.containers)


@pytest.mark.parametrize("of", ["small", "large"])
def test_an_upgrade_takes_no_pod_away_before_another_one_is_ready(of: str) -> None:
    for service in SERVICES:
        deployment = named(made(of), "Deployment", f"sagabox-{service}")
        assert deployment["spec"]["strategy"] == {
            "type": "RollingUpdate",
            "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0},
        }


def test_a_slow_handler_makes_the_grace_period_longer() -> None:
    pod = deployed(rendering.rendered("--set", "defaults.handlerSeconds=90"), "comments")
    assert pod.spec["terminationGracePeriodSeconds"] == 5 + 10 + 90


@every_set
def test_each_service_is_found_where_the_others_look_for_it(of: str) -> None:
    manifests = made(of)
    services = {it["metadata"]["name"]: it["spec"] for it in of_kind(manifests, "Service")}
    (container,) = deployed(manifests, "articles").spec["containers"]
    (told,) = (it["value"] for it in container["env"] if it["name"] == "SAGABOX_PEERS")
    peers = dict(it.split("=", 1) for it in told.split(","))
    assert peers.keys() == SERVICES.keys()
    for name, address in peers.items():
        by_grpc = is_grpc(address)
        assert by_grpc is ("grpc" in of)
        destination = grpc_destination(address) if by_grpc else Destination.parse(address)
        host, _, port = re.sub(r"^.*//", "", address).partition(":")
        first = FIRST_PORT + SERVICES[name].offset
        assert int(port) == first + 100 * by_grpc
        offered = {it["targetPort"]: it["port"] for it in services[host]["ports"]}
        assert offered == {"http": first} | ({"grpc": int(port)} if by_grpc else {})
        assert [it["name"] for it in services[host]["ports"]] == list(offered)
        assert (services[host].get("clusterIP") == "None") is (destination.source is Source.DNS)
        labels = deployed(manifests, name).template["metadata"]["labels"]
        assert services[host]["selector"].items() <= labels.items()
    assert of.startswith("istio") is all("pods" not in it for it in peers.values())


@every_set
def test_each_selector_chooses_the_pods_that_are_meant(of: str) -> None:
    manifests = made(of)
    for name in SERVICES:
        pod = deployed(manifests, name)
        labels = pod.template["metadata"]["labels"]
        others = [it for it in pods(manifests) if it.component != name]
        chosen = [
            named(manifests, "NetworkPolicy", pod.name)["spec"]["podSelector"]["matchLabels"],
            named(manifests, "Deployment", pod.name)["spec"]["selector"]["matchLabels"],
            *(
                it["spec"]["selector"]["matchLabels"]
                for it in of_kind(manifests, "PodDisruptionBudget")
                if it["metadata"]["name"] == pod.name
            ),
            *(it["labelSelector"]["matchLabels"] for it in pod.spec["topologySpreadConstraints"]),
        ]
        assert len(chosen) == (4 if of == "trial" else 5)
        for selector in chosen:
            assert selector.items() <= labels.items()
            assert not any(
                selector.items() <= it.template["metadata"]["labels"].items() for it in others
            )
        for monitor in of_kind(manifests, "ServiceMonitor"):
            wanted = monitor["spec"]["selector"]["matchLabels"].items()
            fitting = [
                it
                for it in of_kind(manifests, "Service")
                if wanted <= it["metadata"]["labels"].items()
            ]
            # Not the headless one too: each pod would be counted twice.
            assert [it["metadata"]["name"] for it in fitting] == [monitor["metadata"]["name"]]


def test_the_ingress_publishes_routes_that_there_are_and_no_messages() -> None:
    manifests = made("everything")
    found = of_kind(manifests, "Ingress")
    assert len(found) == len(SERVICES)
    for ingress in found:
        service = ingress["metadata"]["labels"]["app.kubernetes.io/component"]
        routes = [path for _, path in table_of(service)]
        for rule in ingress["spec"]["rules"]:
            for path in (it["path"] for it in rule["http"]["paths"]):
                assert any(it == path or it.startswith(f"{path}/") for it in routes), path
                assert not any(f"{it}/".startswith(f"{path}/") for it in ("/messages", "/metrics"))


def test_messages_come_from_pods_of_the_release_and_those_that_are_named() -> None:
    ours = {"app.kubernetes.io/name": "sagabox", "app.kubernetes.io/instance": "sagabox"}
    policies = of_kind(rendering.rendered("--set", "networkPolicy.callers=null"), "NetworkPolicy")
    for policy in policies:
        spec = policy["spec"]
        if "Egress" in spec["policyTypes"]:
            # Nothing comes in that no other policy lets in.
            assert spec["podSelector"]["matchLabels"] == ours
            assert "ingress" not in spec
            continue
        (rule,) = spec["ingress"]
        assert rule["from"][0] == {"podSelector": {"matchLabels": ours}}
        assert all("namespaceSelector" in it for it in rule["from"][1:])
        assert rule["ports"] == [{"port": "http", "protocol": "TCP"}]
    assert len(policies) == len(SERVICES) + 1


def test_messages_over_grpc_come_from_pods_of_the_release_alone() -> None:
    for service in SERVICES:
        policy = named(made("grpc"), "NetworkPolicy", f"sagabox-{service}")
        (rule,) = (it for it in policy["spec"]["ingress"] if it["ports"][0]["port"] == "grpc")
        ours = {"app.kubernetes.io/name": "sagabox", "app.kubernetes.io/instance": "sagabox"}
        assert rule["from"] == [{"podSelector": {"matchLabels": ours}}]
        # Prometheus and the proxy come by HTTP alone.
        assert [it["ports"] for it in policy["spec"]["ingress"] if it is not rule] == [
            [{"port": "http", "protocol": "TCP"}]
        ] * 2


def test_no_secret_stands_in_what_is_rendered() -> None:
    secret = re.compile(r"SECRETS|TOKEN|DATABASE_URL")
    for of in _SETS:
        manifests = made(of)
        assert of_kind(manifests, "Secret", "ConfigMap") == []
        for entry in (
            it for pod in pods(manifests) for each in pod.containers for it in each["env"]
        ):
            if secret.search(entry["name"]) and not entry.get("value", "").startswith("sqlite:"):
                assert entry.keys() == {"name", "valueFrom"}, entry
                assert entry["valueFrom"].keys() == {"secretKeyRef"}


def test_a_sqlite_file_has_one_process_at_a_time_that_migrates_it_first() -> None:
    manifests = made("trial")
    for service in SERVICES:
        deployment = named(manifests, "Deployment", f"sagabox-{service}")
        assert deployment["spec"]["replicas"] == 1
        assert deployment["spec"]["strategy"] == {"type": "Recreate"}
        pod = deployed(manifests, service)
        (first,) = pod.spec["initContainers"]
        assert first["command"][:4] == ["sagabox", "migrate", "upgrade", service]
        claims = {
            it["persistentVolumeClaim"]["claimName"]
            for it in pod.spec["volumes"]
            if "persistentVolumeClaim" in it
        }
        claim = named(manifests, "PersistentVolumeClaim", claims.pop())
        assert claim["spec"]["accessModes"] == ["ReadWriteOnce"]
        assert {"name": "data", "mountPath": "/data"} in first["volumeMounts"]
    assert of_kind(manifests, "Job", "PodDisruptionBudget", "HorizontalPodAutoscaler") == []


@pytest.mark.parametrize("of", ["small", "large"])
def test_on_postgresql_a_hook_migrates_each_database_before_the_new_pods(of: str) -> None:
    jobs = of_kind(made(of), "Job")
    assert [it["metadata"]["name"] for it in jobs] == [
        f"sagabox-migrate-{name}" for name in ("articles", "comments", "orchestrator")
    ]
    for job in jobs:
        annotations = job["metadata"]["annotations"]
        assert annotations["helm.sh/hook"] == "pre-install,pre-upgrade"
        # The Job of the last upgrade is in the way of this one's.
        assert annotations["helm.sh/hook-delete-policy"] == "before-hook-creation"
        (pod,) = pods([job])
        (container,) = pod.spec["containers"]
        waits = int(container["command"][container["command"].index("--wait") + 1])
        assert job["spec"]["activeDeadlineSeconds"] > waits
        # A hook runs before the accounts of the release are there.
        assert "serviceAccountName" not in pod.spec


def test_the_orchestrators_are_not_scaled_beyond_the_shards_of_the_runs() -> None:
    manifests = made("large")
    orchestrator = named(manifests, "HorizontalPodAutoscaler", "sagabox-orchestrator")
    assert orchestrator["spec"]["maxReplicas"] == len(SHARDS)
    for scaler in of_kind(manifests, "HorizontalPodAutoscaler", "ScaledObject"):
        target = scaler["spec"]["scaleTargetRef"]
        scaled = named(manifests, target["kind"], target["name"])
        # What scales says how many there are; an upgrade must not say something else.
        assert "replicas" not in scaled["spec"]


def test_istio_says_of_messages_what_the_relay_needs() -> None:
    manifests, release = rendering.kustomized(ISTIO), made("istio with grpc")
    delivery = ServiceSettings.model_fields["delivery_timeout"].default
    names = {f"sagabox-{it}" for it in SERVICES}
    for virtual in of_kind(manifests, "VirtualService"):
        (host,) = virtual["spec"]["hosts"]
        name = virtual["metadata"]["name"]
        assert host == f"{name}.sagabox.svc.cluster.local"
        ports = {it["name"]: it["port"] for it in named(release, "Service", name)["spec"]["ports"]}
        routes = {it["name"]: it for it in virtual["spec"]["http"]}
        for called, route in routes.items():
            assert route["retries"] == {"attempts": 0}
            (to,) = route["route"]
            port = ports["grpc" if called.endswith("-grpc") else "http"]
            assert to["destination"] == {"host": host, "port": {"number": port}}
        first = virtual["spec"]["http"][0]
        assert first["match"] == [{"uri": {"exact": "/messages"}}]
        assert delivery < seconds(first["timeout"]) < delivery + 2
        assert seconds(routes["rest"]["timeout"]) > 30
        assert "match" not in virtual["spec"]["http"][-1]
        # Each call of gRPC has a route of its own: the last one leads to the port of HTTP.
        by_port = routes["rest-grpc"]
        assert by_port["match"] == [{"port": ports["grpc"]}]
        assert virtual["spec"]["http"][-2] == by_port
        assert routes["messages-grpc"]["match"] == [{"uri": {"exact": DELIVER}}]
        assert routes["messages-grpc"]["timeout"] == first["timeout"]
        assert ("watch-grpc" in routes) is ("events" in routes)
        if "watch-grpc" in routes:
            assert routes["watch-grpc"]["match"] == [{"uri": {"exact": _WATCH}}]
            assert routes["watch-grpc"]["timeout"] == "0s"
        if "events" in routes:
            (match,) = routes["events"]["match"]
            pattern = re.compile(match["uri"]["regex"])
            streams = [it for _, it in table_of("orchestrator") if it.endswith("/events")]
            assert [it for it in streams if pattern.fullmatch(it)] == ["/sagas/{saga}/events"]
            assert routes["events"]["timeout"] == "0s"
    for kind in ("VirtualService", "DestinationRule"):
        assert {it["metadata"]["name"] for it in of_kind(manifests, kind)} == names
    for rule in of_kind(manifests, "DestinationRule"):
        policy = rule["spec"]["trafficPolicy"]
        assert rule["spec"]["host"] == f"{rule['metadata']['name']}.sagabox.svc.cluster.local"
        assert policy["tls"] == {"mode": "ISTIO_MUTUAL"}
        assert 0 < policy["outlierDetection"]["maxEjectionPercent"] <= 50


def test_istio_lets_only_the_accounts_of_services_send_messages() -> None:
    manifests, release = rendering.kustomized(ISTIO), made("istio")
    (authentication,) = of_kind(manifests, "PeerAuthentication")
    assert authentication["spec"] == {"mtls": {"mode": "STRICT"}}
    (policy,) = of_kind(manifests, "AuthorizationPolicy")
    assert policy["spec"]["action"] == "DENY"
    (rule,) = policy["spec"]["rules"]
    assert rule["to"] == [
        {"operation": {"paths": ["/messages", f"{DELIVER.rpartition('/')[0]}/*"]}}
    ]
    (sender,) = rule["from"]
    accounts = {it["metadata"]["name"] for it in of_kind(release, "ServiceAccount")}
    assert set(sender["source"]["notPrincipals"]) == {
        f"cluster.local/ns/sagabox/sa/{it}" for it in accounts
    }
    for service in SERVICES:
        pod = deployed(release, service)
        labels = pod.template["metadata"]["labels"]
        assert policy["spec"]["selector"]["matchLabels"].items() <= labels.items()
        assert pod.spec["serviceAccountName"] in accounts
        told = pod.template["metadata"]["annotations"]["proxy.istio.io/config"]
        grace = pod.spec["terminationGracePeriodSeconds"]
        assert f'"terminationDrainDuration": "{grace}s"' in told
    once = [it for it in pods(release) if it.kind != "Deployment"]
    assert once
    assert all(
        it.template["metadata"]["labels"]["sidecar.istio.io/inject"] == "false" for it in once
    )


def seconds(text: str) -> float:
    return float(text.removesuffix("s"))


def test_the_version_of_the_chart_is_that_of_the_package() -> None:
    project = (ROOT / "pyproject.toml").read_text()
    version = re.search(r'^version = "(.*)"$', project, re.M)
    assert version is not None
    chart = (rendering.CHART / "Chart.yaml").read_text()
    assert f'appVersion: "{version[1]}"' in chart
    for overlay in OVERLAYS:
        text = (rendering.KUBERNETES / "overlays" / overlay / "kustomization.yaml").read_text()
        assert f"newTag: {version[1]}\n" in text
