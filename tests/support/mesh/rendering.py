"""The files of `deploy/envoy` as a test starts them: other ports and addresses, and what a test
puts in on top. What no test replaces stays as it is in the file."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

import yaml  # type: ignore[import-untyped]  # PyYAML comes without types

from tests.support.checkout import ROOT

FILES = ROOT / "deploy" / "envoy"

Config = dict[str, Any]
Socket = tuple[str, int]

_FAULTS = "type.googleapis.com/envoy.extensions.filters.http.fault.v3.HTTPFault"
_RESOLVER = (
    "type.googleapis.com/envoy.extensions.network.dns_resolver.cares.v3.CaresDnsResolverConfig"
)


def read(name: str) -> Config:
    """The file of that name; no part of it is shared with another part."""
    config: Config = json.loads(json.dumps(yaml.safe_load((FILES / name).read_text("utf-8"))))
    return config


def placed(config: Config, sockets: Mapping[Socket, Socket]) -> Config:
    """Each address of the file is another one. Raises KeyError for one that is not given."""
    for each in _dicts(config):
        where: Any = each.get("socket_address")
        if where is not None:
            old = where["address"], where["port_value"]
            where["address"], where["port_value"] = sockets[old]
            each["placed"] = old
        if "health_check_config" in each:
            check = each["health_check_config"]
            host = each["address"].get("placed", (None,))[0]
            host = host or each["address"]["socket_address"]["address"]
            check["port_value"] = sockets[host, check["port_value"]][1]
    for each in _dicts(config):
        each.pop("placed", None)
    return config


def told_at_once(config: Config) -> Config:
    """Those that pass requests on hear at once of an instance that is well again; else that may be
    up to a second later than Envoy's administration tells it."""
    for cluster in config["static_resources"]["clusters"]:
        cluster.setdefault("common_lb_config", {})["update_merge_window"] = "0s"
    return config


def resolved_at(config: Config, port: int) -> Config:
    """Names are looked up at the name server of the test, at that port of loopback."""
    server = {"socket_address": {"address": "127.0.0.1", "port_value": port}}
    for cluster in config["static_resources"]["clusters"]:
        if "cluster_type" in cluster:
            cluster["cluster_type"]["typed_config"]["typed_dns_resolver_config"] = {
                "name": "envoy.network.dns_resolver.cares",
                "typed_config": {
                    "@type": _RESOLVER,
                    "resolvers": [server],
                    "dns_resolver_options": {"no_default_search_domain": True},
                },
            }
    return config


def texts_replaced(config: Config, texts: Mapping[str, str]) -> Config:
    """Each of these texts stands for another one, wherever it is the beginning of a value."""
    told = json.dumps(config)
    for old, new in texts.items():
        assert f'"{old}' in told, old
        told = told.replace(f'"{old}', f'"{new}')
    replaced: Config = json.loads(told)
    return replaced


def with_faults(config: Config, listener: str, *, status: int = 503, delay: str = "1.5s") -> Config:
    """Envoy's fault filter is in that listener; its shares of requests are 0 until a test sets
    `fault.http.abort.abort_percent` or `fault.http.delay.fixed_delay_percent`."""
    never = {"numerator": 0, "denominator": "HUNDRED"}
    with_filter(
        config,
        listener,
        {
            "name": "envoy.filters.http.fault",
            "typed_config": {
                "@type": _FAULTS,
                "abort": {"http_status": status, "percentage": never},
                "delay": {"fixed_delay": delay, "percentage": never},
            },
        },
    )
    return config


def switchable(config: Config) -> Config:
    """Values may be set while Envoy runs: the shares of the fault filter and of a canary."""
    config["layered_runtime"] = {"layers": [{"name": "test", "admin_layer": {}}]}
    return config


def with_filter(config: Config, listener: str, filter: Config) -> Config:
    """That filter stands before all others of the listener."""
    _manager(config, listener)["http_filters"].insert(0, filter)
    return config


def routes(config: Config, listener: str) -> list[Config]:
    """The routes of that listener, to be changed in place."""
    (host,) = _manager(config, listener)["route_config"]["virtual_hosts"]
    found: list[Config] = host["routes"]
    return found


def routes_to(config: Config, cluster: str) -> Iterator[Config]:
    """What is done with the requests for that cluster, in all listeners."""
    for listener in config["static_resources"]["listeners"]:
        for route in routes(config, listener["name"]):
            if route.get("route", {}).get("cluster") == cluster:
                yield route["route"]


def cluster(config: Config, name: str) -> Config:
    """The cluster of that name, to be changed in place."""
    clusters: list[Config] = config["static_resources"]["clusters"]
    return next(it for it in clusters if it["name"] == name)


def _manager(config: Config, listener: str) -> Config:
    for each in config["static_resources"]["listeners"]:
        if each["name"] == listener:
            manager: Config = each["filter_chains"][0]["filters"][0]["typed_config"]
            return manager
    raise KeyError(listener)


def _dicts(value: Any) -> Iterator[Config]:
    if isinstance(value, dict):
        yield value
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    for part in [*parts]:
        yield from _dicts(part)
