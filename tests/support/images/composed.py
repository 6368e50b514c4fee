"""deploy/compose.yaml, read."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]  # it ships no types

from tests.support.checkout import ROOT
from tests.support.images.told import filled_in

FILE = ROOT / "deploy" / "compose.yaml"
_IMAGE = "sagabox"


@functools.cache
def compose() -> Mapping[str, Any]:
    """All of it, with what its anchors stand for."""
    found: Mapping[str, Any] = yaml.safe_load(FILE.read_text("utf-8"))
    return found


def services() -> Mapping[str, Mapping[str, Any]]:
    """Its services, by name."""
    found: Mapping[str, Mapping[str, Any]] = compose()["services"]
    return found


def ours() -> Mapping[str, Mapping[str, Any]]:
    """Those that run the image of deploy/Dockerfile."""
    return {name: it for name, it in services().items() if it["image"] == _IMAGE}


def serving() -> Mapping[str, Mapping[str, Any]]:
    """Those of them that serve."""
    return {name: it for name, it in ours().items() if it["command"][0] == "serve"}


def migrating() -> Mapping[str, Mapping[str, Any]]:
    """Those of them that migrate."""
    return {name: it for name, it in ours().items() if it["command"][0] == "migrate"}


def variables(service: Mapping[str, Any], given: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment of one of them, with these variables around it."""
    environment: Mapping[str, str] = service.get("environment", {})
    return {name: filled_in(value, given or {}) for name, value in environment.items()}


def mounted_files() -> Iterator[Path]:
    """The files and folders of the checkout that are mounted, secrets left out."""
    for service in services().values():
        for volume in service.get("volumes", ()):
            source = volume.partition(":")[0]
            if source.startswith("./"):
                yield Path("deploy") / source


def ports(service: Mapping[str, Any]) -> Sequence[str]:
    """What it publishes, as ADDRESS:PORT:PORT."""
    found: Sequence[str] = service.get("ports", ())
    return found
