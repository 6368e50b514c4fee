"""The files of Envoy and nginx are right as they are, and their figures fit the services."""

from __future__ import annotations

import re
from collections.abc import Iterator
from inspect import signature
from pathlib import Path
from typing import Any

import pytest
import uvicorn

from orchestrator.api.events import HEARTBEAT
from orchestrator.api.sagas import MAX_WAIT
from outbox.chassis.http.bounded_http import MAX_HEAD_LINES, MAX_HEAD_SECONDS
from outbox.chassis.http.middleware import MAX_BODY_BYTES, MAX_BODY_SECONDS
from outbox.relay.settings import RelaySettings
from outbox.transports.grpc.server import MOST_STREAMS
from outbox.transports.grpc.transport import DELIVER
from outbox.transports.http.posting import IDLE_SECONDS
from tests.support.checkout import ROOT
from tests.support.mesh import rendering
from tests.support.mesh.certificates import Authority
from tests.support.mesh.envoy import validated
from tests.support.mesh.rendering import Config

KEPT_BY_SERVICES: int = signature(uvicorn.Config).parameters["timeout_keep_alive"].default
"""Seconds for which a service keeps a connection that rests."""
READY_WITHIN = 2.0
"""Seconds within which `/readyz` answers, also while the database is slow or away."""
FILES = ("edge.yaml", "sidecar.yaml")
_OWN_HEADERS = 6  # x-forwarded-for, x-forwarded-proto, x-request-id, and some room


def test_envoy_takes_the_edge_as_it_is() -> None:
    told = validated(rendering.FILES / "edge.yaml")
    assert "OK" in told
    assert not re.search("warning|error|deprecated", told, re.I), told


def test_envoy_takes_the_sidecar_with_certificates(tmp_path: Path) -> None:
    folder = Authority("an authority", tmp_path).folder_of("spiffe://sagabox/articles")
    text = (rendering.FILES / "sidecar.yaml").read_text("utf-8")
    path = tmp_path / "sidecar.yaml"
    path.write_text(text.replace("/etc/envoy/tls", str(folder)))
    told = validated(path)
    assert "OK" in told
    assert not re.search("warning|error|deprecated", told, re.I), told


def _routes(config: Config) -> Iterator[tuple[str, Config]]:
    """Each route that leads to a service, with what it matches."""
    for listener in config["static_resources"]["listeners"]:
        for route in rendering.routes(config, listener["name"]):
            if "route" in route:
                match = route["match"]
                path = match.get("path") or match.get("prefix") or str(match)
                yield path, route["route"]


def _seconds(text: str) -> float:
    return float(text.removesuffix("s"))


@pytest.mark.parametrize("name", FILES)
def test_no_message_is_repeated_and_its_sender_gives_up_first(name: str) -> None:
    config = rendering.read(name)
    messages = [of for path, of in _routes(config) if path in ("/messages", DELIVER)]
    assert len(messages) >= 6
    for route in messages:
        assert _seconds(route["timeout"]) > RelaySettings().delivery_timeout
        assert not {"retry_policy", "hedge_policy", "request_mirror_policies"} & route.keys()
    for listener in ("messages", "inbound", "outbound"):
        for host in _hosts(config, listener):
            assert not {"retry_policy", "hedge_policy"} & host.keys()


def _hosts(config: Config, listener: str) -> list[Config]:
    for each in config["static_resources"]["listeners"]:
        if each["name"] == listener:
            manager = each["filter_chains"][0]["filters"][0]["typed_config"]
            hosts: list[Config] = manager["route_config"]["virtual_hosts"]
            return hosts
    return []


@pytest.mark.parametrize("name", FILES)
def test_streams_last_and_requests_may_wait(name: str) -> None:
    routes = dict(_routes(rendering.read(name)))
    streams = [it for path, it in routes.items() if "events" in path or path.endswith("/Watch")]
    assert len(streams) == 2
    for route in streams:
        assert route["timeout"] == "0s"
        assert _seconds(route["idle_timeout"]) > 2 * HEARTBEAT
    for path, route in routes.items():
        if route not in streams and route["cluster"] in ("orchestrator", "own"):
            waits = "sagas" in str(path) or path == "/"
            assert not waits or _seconds(route["timeout"]) > MAX_WAIT


@pytest.mark.parametrize("name", FILES)
def test_connections_that_rest_are_never_closed_by_the_one_who_does_not_use_them(name: str) -> None:
    for cluster in rendering.read(name)["static_resources"]["clusters"]:
        (options,) = cluster["typed_extension_protocol_options"].values()
        protocol = options["explicit_http_config"]
        if "http_protocol_options" in protocol:
            rests = options["common_http_protocol_options"]["idle_timeout"]
            assert _seconds(rests) < KEPT_BY_SERVICES
            for check in cluster.get("health_checks", ()):
                assert check["reuse_connection"] is False
        else:
            of_grpc = protocol["http2_protocol_options"]
            assert of_grpc["max_concurrent_streams"] < MOST_STREAMS
            # A gRPC server in Python takes more than one ping in 5 minutes for an attack.
            to_service = cluster["name"] == "own-grpc" or name == "edge.yaml"
            assert ("connection_keepalive" in of_grpc) is not to_service
    for manager in _managers(rendering.read(name)):
        assert _seconds(manager["common_http_protocol_options"]["idle_timeout"]) > IDLE_SECONDS


def _managers(config: Config) -> Iterator[Config]:
    for listener in config["static_resources"]["listeners"]:
        yield listener["filter_chains"][0]["filters"][0]["typed_config"]


@pytest.mark.parametrize("name", FILES)
def test_heads_and_bodies_have_the_limits_of_the_services(name: str) -> None:
    for manager in _managers(rendering.read(name)):
        assert _seconds(manager["request_headers_timeout"]) == MAX_HEAD_SECONDS
        assert _seconds(manager["request_timeout"]) == MAX_BODY_SECONDS
        most = manager["common_http_protocol_options"].get("max_headers_count")
        assert most is None or most + _OWN_HEADERS <= MAX_HEAD_LINES
        # The body is looked at while it passes, and is held up by none.
        names = [it["name"] for it in manager["http_filters"]]
        assert set(names) <= {"saga_ids", "who_may_send_messages", "envoy.filters.http.router"}


@pytest.mark.parametrize("name", FILES)
def test_each_instance_is_checked_by_its_readiness(name: str) -> None:
    clusters = rendering.read(name)["static_resources"]["clusters"]
    several = [it for it in clusters if it.get("cluster_type")]
    assert {it["name"].removesuffix("-grpc") for it in several} == {
        "orchestrator",
        "articles",
        "comments",
    }
    for cluster in several:
        (check,) = cluster["health_checks"]
        assert check["http_health_check"]["path"] == "/readyz"
        assert _seconds(check["timeout"]) > READY_WITHIN
        assert cluster["lb_policy"] == "ROUND_ROBIN"
        assert cluster["outlier_detection"]["max_ejection_percent"] <= 50
        assert cluster["circuit_breakers"]["thresholds"]
        if cluster["name"].endswith("-grpc"):
            (locality,) = cluster["load_assignment"]["endpoints"]
            (endpoint,) = locality["lb_endpoints"]
            told: dict[str, Any] = endpoint["endpoint"]
            grpc_port = told["address"]["socket_address"]["port_value"]
            assert told["health_check_config"]["port_value"] == grpc_port - 100


def test_nginx_has_the_same_figures() -> None:
    text = (ROOT / "deploy" / "nginx" / "sagabox.conf").read_text("utf-8")
    assert set(re.findall(r"client_max_body_size (\w+);", text)) == {"1m"}
    assert MAX_BODY_BYTES == 1024 * 1024
    upstreams = re.findall(r"upstream \w+ \{.*?\}", text, re.S)
    assert len(upstreams) == 3
    for upstream in upstreams:
        rests = re.findall(r"keepalive_timeout (\d+)s;", upstream)
        assert [int(it) < KEPT_BY_SERVICES for it in rests] == [True]
    waits, stream, messages = map(int, re.findall(r"proxy_read_timeout (\d+)s;", text))
    assert stream > 2 * HEARTBEAT
    assert waits > MAX_WAIT
    assert messages > RelaySettings().delivery_timeout
    directives = re.sub(r"#.*", "", text)
    assert "non_idempotent" not in directives
    assert "proxy_next_upstream off;" in directives.partition("listen 8081")[2]
    assert directives.count("proxy_buffering off;") == 1
