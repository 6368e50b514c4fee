"""deploy/compose.yaml, and what is beside it: a valid file, and all that it names is there."""

from __future__ import annotations

import json
import re
import stat
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]  # it ships no types
from compose_spec import PyCompose, parse_duration

from articles.settings import ArticlesSettings
from orchestrator.cli.processes.services import FIRST_PORT, SERVICES
from orchestrator.cli.services.serving import _REQUESTS_END_WITHIN
from orchestrator.settings import OrchestratorSettings
from outbox.chassis.settings import ServiceSettings, documented, load
from outbox.inbox.limits import HANDLER_SECONDS
from outbox.transports.http.peers import peers_in
from tests.support.brokers.nats_server import nats_server
from tests.support.checkout import ROOT
from tests.support.databases.postgres import PostgresServer
from tests.support.images import composed
from tests.support.images.dockerfile import Metadata, steps
from tests.support.images.told import require_command, unread

_DEPLOY = ROOT / "deploy"
_MADE_HERE = {"deploy/nats/nats.conf", "deploy/postgres/databases.sql"}
_MADE_ELSEWHERE = {
    "deploy/envoy/edge.yaml": "Envoy's configuration, with tests of its own",
    "deploy/grafana/dashboards": "the dashboards, made by code and tested there",
    "deploy/grafana/provisioning": "what lets Grafana find them",
    "deploy/prometheus": "the configuration and the rules, tested with a real server",
}
_SERVICES = sorted(composed.services())
_OURS = sorted(composed.ours())
_SERVING = sorted(composed.serving())
_KEPT_SECONDS = 5  # between the end of the slowest stop and SIGKILL


def _validated(document: Mapping[str, Any]) -> PyCompose:
    found = PyCompose.from_json(json.dumps(document))
    found.validate()
    return found


def test_the_file_is_one_of_the_compose_specification() -> None:
    assert sorted(_validated(composed.compose()).service_names()) == _SERVICES


@pytest.mark.parametrize(
    "planted", [{"prots": ["127.0.0.1:1:1"]}, {"networks": ["nowhere"]}, {"secrets": ["none"]}]
)
def test_a_planted_fault_is_found(planted: Mapping[str, Any]) -> None:
    articles = {**composed.services()["articles"], **planted}
    with pytest.raises(ValueError, match=r"extension key|is not defined"):
        _validated({**composed.compose(), "services": {"articles": articles}})


def test_it_has_what_the_page_promises() -> None:
    assert _SERVING == ["articles", "comments", "orchestrator-1", "orchestrator-2"]
    assert {"postgres", "envoy", "prometheus", "grafana"} <= set(_SERVICES)
    assert composed.services()["nats"]["profiles"] == ["nats"]
    assert [it for it in _SERVICES if "profiles" in composed.services()[it]] == ["nats"]


@pytest.mark.parametrize("name", _SERVICES)
def test_nothing_is_published_beyond_this_machine(name: str) -> None:
    service = composed.services()[name]
    for port in composed.ports(service):
        assert re.fullmatch(r"127\.0\.0\.1:\d+:\d+", port), port
    assert "network_mode" not in service
    assert not service.get("privileged", False)


def test_what_publishes_nothing_has_no_way_out() -> None:
    assert composed.compose()["networks"]["inside"]["internal"] is True
    for name, service in composed.services().items():
        assert ("edge" in service["networks"]) is bool(composed.ports(service)), name
        assert "inside" in service["networks"], name


@pytest.mark.parametrize("name", _OURS)
def test_our_processes_have_a_root_that_is_only_read_and_no_rights(name: str) -> None:
    service = composed.ours()[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["tmpfs"] == ["/tmp"]
    assert service["build"] == {"context": "..", "dockerfile": "deploy/Dockerfile"}
    assert "user" not in service  # that of the image


@pytest.mark.parametrize("name", [it for it in _OURS if it != "metrics-token"])
def test_the_commands_are_ones_that_the_terminal_takes(name: str) -> None:
    require_command(composed.ours()[name]["command"])


def test_a_command_that_the_terminal_does_not_take_is_found() -> None:
    for wrong in (["serve", "articles", "--hots", "0.0.0.0"], ["migrate", "upgrade", "--all"]):
        with pytest.raises(Exception, match="No such option"):
            require_command(wrong)


def test_the_script_that_makes_the_token_calls_commands_that_the_terminal_takes() -> None:
    lines = composed.ours()["metrics-token"]["command"][0].splitlines()
    (line,) = [it for it in lines if it.startswith("sagabox ")]
    words = line.replace('"prometheus-$$(date +%s)"', "prometheus-1").partition(" >")[0].split()
    require_command(words[1:])


@pytest.mark.parametrize("name", _OURS)
def test_every_variable_is_read_by_the_process_that_gets_it(name: str) -> None:
    service = composed.ours()[name]
    command = ["token"] if name == "metrics-token" else service["command"]
    assert unread(command, composed.variables(service)) == set()


def test_a_variable_that_no_process_reads_is_found() -> None:
    assert unread(["serve", "comments"], ["SAGABOX_SECRET_FILE", "SAGABOX_SECRETS_FILE"]) == {
        "SAGABOX_SECRET_FILE"
    }
    assert unread(["serve", "comments"], ["SAGABOX_SAGAS"]) == {"SAGABOX_SAGAS"}
    assert unread(["migrate", "upgrade", "comments"], ["SAGABOX_SECRETS"]) == {"SAGABOX_SECRETS"}


@pytest.mark.parametrize("name", _OURS)
def test_every_secret_is_a_file_and_none_stands_in_the_environment(name: str) -> None:
    service = composed.ours()[name]
    variables = composed.variables(service)
    files = {
        value.removeprefix("/run/secrets/")
        for value in variables.values()
        if value.startswith("/run/secrets/")
    }
    assert files == set(service["secrets"])
    for variable in variables:
        secret = re.search(r"SECRETS|TOKEN|DATABASE_URL|PASSWORD", variable)
        assert not secret or variable.endswith("_FILE"), variable


@pytest.mark.parametrize("name", _SERVING)
def test_each_service_has_all_settings_that_must_be_set(name: str) -> None:
    service = composed.serving()[name]
    given = {it.removesuffix("_FILE") for it in composed.variables(service)}
    model = SERVICES[service["command"][1]].settings_model()
    assert {it.variable for it in documented(model) if it.default is None} <= given


def _peers(given: Mapping[str, str]) -> Mapping[str, str]:
    found = {
        composed.variables(service, given)["SAGABOX_PEERS"]
        for service in composed.serving().values()
    }
    assert len(found) == 1
    return peers_in(found.pop())


def test_each_peer_has_the_addresses_of_its_containers_at_their_ports() -> None:
    expected: dict[str, list[str]] = {}
    for name, service in composed.serving().items():
        kind = service["command"][1]
        address = f"http://{name}:{FIRST_PORT + SERVICES[kind].offset}"
        expected.setdefault(kind, []).append(address)
    assert {name: sorted(it.split(",")) for name, it in _peers({}).items()} == expected


def test_prometheus_may_ask_by_the_names_of_the_containers() -> None:
    for service in composed.serving().values():
        names = composed.variables(service)["SAGABOX_ALLOWED_HOSTS"].split(",")
        assert {*_SERVING, "orchestrator"} == set(names)
        aliases = [
            alias
            for it in composed.serving().values()
            if isinstance(it["networks"], dict)
            for alias in it["networks"]["inside"]["aliases"]
        ]
        assert set(names) == {*_SERVING, *aliases}


def test_only_envoy_is_believed_about_callers() -> None:
    address = composed.services()["envoy"]["networks"]["inside"]["ipv4_address"]
    for service in composed.serving().values():
        assert composed.variables(service)["FORWARDED_ALLOW_IPS"] == address


def test_articles_sends_people_to_the_port_that_envoy_publishes() -> None:
    (port,) = composed.ports(composed.services()["envoy"])
    published = port.split(":")[1]
    told = composed.variables(composed.services()["articles"])["SAGABOX_PUBLIC_URL_ORCHESTRATOR"]
    assert told == f"http://localhost:{published}"


def _asked(service: Mapping[str, Any]) -> tuple[str, int]:
    program, path, port = service["healthcheck"]["test"][1:]
    assert program == "healthcheck"
    return path, int(port)


@pytest.mark.parametrize("name", _SERVING)
def test_a_container_is_healthy_when_its_own_port_says_that_it_is_ready(name: str) -> None:
    service = composed.serving()[name]
    kind = SERVICES[service["command"][1]]
    assert _asked(service) == ("/readyz", FIRST_PORT + kind.offset)
    assert "--port" not in service["command"]


@pytest.mark.parametrize("name", _SERVICES)
def test_every_container_that_stays_has_a_healthcheck_and_starts_again(name: str) -> None:
    service = composed.services()[name]
    is_once = name.startswith("migrate-") or name == "metrics-token"
    assert service["restart"] == ("no" if is_once else "unless-stopped")
    assert service["healthcheck"].get("disable", False) is is_once


@pytest.mark.parametrize("name", _SERVING)
def test_a_stop_waits_longer_than_the_slowest_one_may_take(name: str) -> None:
    service = composed.serving()[name]
    drain = ServiceSettings.model_fields["drain_seconds"].default
    slowest = _REQUESTS_END_WITHIN + max(drain, HANDLER_SECONDS)
    assert parse_duration(service["stop_grace_period"]) >= slowest + _KEPT_SECONDS
    assert service["stop_signal"] == _image().stop_signal
    assert service["init"] is True


def _image() -> Metadata:
    said = Metadata(environment={"PATH": ""})
    for step in steps((_DEPLOY / "Dockerfile").read_text()):
        said.take(step)
    return said


def test_every_service_waits_for_the_migration_of_its_own_database() -> None:
    for service in composed.serving().values():
        kind = service["command"][1]
        assert composed.migrating()[f"migrate-{kind}"]["command"] == ["migrate", "upgrade", kind]
        waits = service["depends_on"]
        for once in (f"migrate-{kind}", "metrics-token"):
            assert waits[once] == {"condition": "service_completed_successfully"}
    for service in composed.ours().values():
        assert service["depends_on"]["postgres"] == {"condition": "service_healthy"}


def test_what_is_waited_for_is_there_and_can_become_so() -> None:
    for name, service in composed.services().items():
        for other, how in service.get("depends_on", {}).items():
            awaited = composed.services()[other]
            is_once = awaited["restart"] == "no"
            expected = "service_completed_successfully" if is_once else "service_healthy"
            assert how == {"condition": expected}, (name, other)


def test_the_database_has_room_for_the_processes_twice() -> None:
    fields = ServiceSettings.model_fields
    each = fields["pool_size"].default + fields["pool_overflow"].default + 1
    command = composed.services()["postgres"]["command"]
    (most,) = [int(it.partition("=")[2]) for it in command if it.startswith("max_connections=")]
    assert 2 * each * len(_SERVING) < most


def test_what_is_mounted_is_in_the_table_and_what_is_made_here_is_there() -> None:
    mounted = {it.as_posix() for it in composed.mounted_files()}
    assert mounted == _MADE_HERE | set(_MADE_ELSEWHERE)
    assert [it for it in sorted(_MADE_HERE) if not (ROOT / it).is_file()] == []


# The files beside it


def test_the_first_start_makes_a_database_for_each_service(postgres_server: PostgresServer) -> None:
    script = (_DEPLOY / "postgres" / "databases.sql").read_text()
    made = re.findall(r"^CREATE DATABASE (\w+);$", script, re.M)
    assert sorted(made) == sorted(SERVICES)
    healthy = composed.services()["postgres"]["healthcheck"]["test"]
    assert f"--dbname={made[-1]}" in healthy, "the last one that is made says that all are there"
    with postgres_server.connect() as connection:
        for name in made:
            renamed = f"CREATE DATABASE compose_{name}"
            connection.execute(renamed)
            connection.execute(f"DROP DATABASE compose_{name}")


def _make_secrets(folder: Path) -> Mapping[str, str]:
    subprocess.run([_DEPLOY / "make-secrets", folder], check=True, timeout=30)
    return {path.name: path.read_text() for path in folder.iterdir()}


def test_the_script_makes_every_secret_that_compose_names(tmp_path: Path) -> None:
    made = _make_secrets(tmp_path / "secrets")
    named = {
        name: Path(it["file"]).relative_to("secrets")
        for name, it in composed.compose()["secrets"].items()
    }
    assert set(made) == set(named)
    assert {name: str(path) for name, path in named.items()} == {name: name for name in named}
    # The container's user has to read the files; others of this machine do not get there.
    assert stat.S_IMODE((tmp_path / "secrets").stat().st_mode) == 0o700
    for path in (tmp_path / "secrets").iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o444


def test_the_services_take_the_secrets_that_the_script_makes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = _make_secrets(tmp_path / "secrets")
    for name, service in composed.serving().items():
        with monkeypatch.context() as environment:
            for variable, value in composed.variables(service).items():
                if variable.endswith("_FILE"):
                    text = made.get(Path(value).name, "of-prometheus").strip()
                    environment.setenv(variable.removesuffix("_FILE"), text)
                else:
                    environment.setenv(variable, value)
            settings = load(SERVICES[service["command"][1]].settings_model())
        assert settings.keyring().signing == "first"
        assert f"@postgres/{service['command'][1]}" in settings.database_url, name  # type: ignore[attr-defined]  # each service's own has it
        assert made["postgres-password"].strip() in settings.database_url  # type: ignore[attr-defined]  # likewise


def test_a_second_run_of_the_script_changes_nothing(tmp_path: Path) -> None:
    made = _make_secrets(tmp_path / "secrets")
    (tmp_path / "secrets" / "blog-token").unlink()
    again = _make_secrets(tmp_path / "secrets")
    assert {name for name in made if again[name] != made[name]} == {"blog-token"}


def _lines(file: Path) -> Mapping[str, str]:
    lines = [it for it in file.read_text().splitlines() if it and not it.startswith("#")]
    return dict(it.split("=", 1) for it in lines)


def test_the_variables_for_nats_let_every_service_send_through_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    given = _lines(_DEPLOY / "nats" / "nats.env")
    assert given["COMPOSE_PROFILES"] == "nats"
    text = composed.FILE.read_text()
    for variable in set(given) - {"COMPOSE_PROFILES"}:
        assert f"${{{variable}:-" in text
    broker = given["SAGABOX_BROKER"]
    assert broker == "nats://nats:4222"
    assert _peers(given) == dict.fromkeys(SERVICES, broker)
    for service in composed.serving().values():
        assert composed.variables(service, given)["SAGABOX_BROKER"] == broker
        assert composed.variables(service)["SAGABOX_BROKER"] == ""
    for name, value in composed.variables(composed.services()["articles"], given).items():
        monkeypatch.setenv(name, value)
    settings = load(
        ArticlesSettings, database_url="sqlite:////data/a", secrets="x:" + "A" * 43 + "="
    )
    assert settings.sagas_at() == "http://localhost:8080"
    assert settings.brokers() == [broker]


def test_the_server_of_nats_takes_its_configuration(tmp_path: Path) -> None:
    file = _DEPLOY / "nats" / "nats.conf"
    ran = subprocess.run(
        [nats_server(), "--config", file, "-t"], capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr
    # Its folder is the volume's, and without this line a power failure loses messages.
    assert 'store_dir: "/data"' in file.read_text()
    assert "sync_interval: always" in file.read_text()
    assert "nats:/data" in composed.services()["nats"]["volumes"]
    (tmp_path / "wrong.conf").write_text(file.read_text().replace("jetstream {", "jetstream ["))
    wrong = subprocess.run(
        [nats_server(), "--config", tmp_path / "wrong.conf", "-t"], capture_output=True, check=False
    )
    assert wrong.returncode != 0


def test_envoy_and_nats_are_the_versions_that_the_tests_run() -> None:
    def version(program: Sequence[str | Path]) -> str:
        told = subprocess.run(program, capture_output=True, text=True, check=True).stdout
        (found,) = re.findall(r"[v/](\d+\.\d+)\.\d+", told)
        return str(found)

    envoy = Path(sys.executable).parent / "envoy"
    assert f"v{version([envoy, '--version'])}-" in composed.services()["envoy"]["image"]
    assert f":{version([nats_server(), '--version'])}-" in composed.services()["nats"]["image"]


def test_every_image_of_others_names_its_version() -> None:
    for name, service in composed.services().items():
        if name not in composed.ours():
            tag = service["image"].partition(":")[2]
            assert re.match(r"v?\d+", tag), service["image"]


def _twice(node: Any) -> list[str]:
    """The keys that stand twice in one of its mappings: the second one wins in silence."""
    if not isinstance(node, yaml.MappingNode):
        return [it for item in getattr(node, "value", ()) for it in _twice(item)]
    names = [key.value for key, _ in node.value]
    found = [it for it in names if names.count(it) > 1]
    return found + [it for _, value in node.value for it in _twice(value)]


def test_no_key_stands_twice_in_one_place() -> None:
    assert _twice(yaml.compose(composed.FILE.read_text())) == []
    assert _twice(yaml.compose("a: [{b: 1, c: 2, b: 3}]")) == ["b", "b"]


def test_the_orchestrators_differ_in_nothing_but_their_names() -> None:
    assert composed.services()["orchestrator-1"] == composed.services()["orchestrator-2"]
    name = OrchestratorSettings.model_fields["name"].default
    assert composed.services()["orchestrator-1"]["networks"]["inside"]["aliases"] == [name]
