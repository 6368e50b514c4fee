"""A canary as docs/operate/mesh.md shows it."""

from __future__ import annotations

import yaml  # type: ignore[import-untyped]  # PyYAML comes without types

from tests.support.mesh import rendering
from tests.support.mesh.rendering import Config
from tests.support.repository.manual import blocks

PAGE = "docs/operate/mesh.md"
_OF_THE_PAGE = "comments"


def with_canary(config: Config, service: str) -> Config:
    """All requests for that service go to it or to its canary, by the page's lines; the canary's
    share is 0 until a test sets it."""
    (shown,) = (it for it in blocks(PAGE, "yaml") if "weighted_clusters" in it)
    weighted = yaml.safe_load(shown.replace(_OF_THE_PAGE, service))["route"]["weighted_clusters"]
    for route in rendering.routes_to(config, service):
        del route["cluster"]
        route["weighted_clusters"] = weighted
    canary = {**rendering.cluster(config, service), "name": f"{service}-canary"}
    told = canary["load_assignment"]["endpoints"][0]["lb_endpoints"][0]["endpoint"]
    where = {**told["address"]["socket_address"], "address": f"{service}-canary"}
    canary["load_assignment"] = {
        "cluster_name": f"{service}-canary",
        "endpoints": [
            {"lb_endpoints": [{"endpoint": {"address": {"socket_address": where}}}]},
        ],
    }
    config["static_resources"]["clusters"].append(canary)
    return config
