"""Finds the sagas that an orchestrator is to run.

By name, as in SAGABOX_SAGAS=shop.sagas:checkout,shop.sagas:refund, and among installed packages,
whose pyproject.toml says:

    [project.entry-points."sagabox.sagas"]
    checkout = "shop.sagas:checkout"
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from orchestrator.definition import Saga
from orchestrator.wording import described
from outbox.web.settings import InvalidSettings

GROUP = "sagabox.sagas"
"""The group of entry points by which packages declare their sagas."""


def discover(names: str) -> list[Saga[Any]]:
    """The sagas named in "module:attribute,...", then those of installed packages, each once.

    Raises InvalidSettings, which names the module and what is wrong with it.
    """
    found = [*_named(names), *_installed(entry_points(group=GROUP))]
    return list({id(saga): saga for saga in found}.values())


def _named(names: str) -> Iterable[Saga[Any]]:
    for name in filter(None, map(str.strip, names.split(","))):
        yield _load(name, f"SAGABOX_SAGAS names {name!r}")


def _installed(points: Iterable[EntryPoint]) -> Iterable[Saga[Any]]:
    for point in sorted(points, key=lambda it: it.name):
        package = point.dist.name if point.dist is not None else "a package"
        yield _load(point.value, f"{package} declares the entry point {point.name} = {point.value}")


def _load(path: str, told_by: str) -> Saga[Any]:
    module_name, _, attribute = path.partition(":")
    if not module_name or not attribute or not _is_dotted(module_name) or not _is_dotted(attribute):
        raise InvalidSettings(
            f"{told_by}, which is not module:attribute",
            next_step="write it as in shop.sagas:checkout",
        )
    try:
        found: Any = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        missing = error.name or module_name
        raise InvalidSettings(
            f"{told_by}, and there is no module {missing!r}",
            next_step=f"install the package with {missing!r}, or put its folder on PYTHONPATH",
        ) from error
    except Exception as error:
        raise InvalidSettings(
            f"{told_by}, and importing {module_name!r} failed ({described(error)})",
            next_step=f"mend it until this works: python -c 'import {module_name}'",
        ) from error
    for part in attribute.split("."):
        if not hasattr(found, part):
            raise InvalidSettings(
                f"{told_by}, and {module_name!r} has no {attribute!r}",
                next_step=f"name one of its sagas: {_sagas_of(module_name) or 'it has none'}",
            )
        found = getattr(found, part)
    if not isinstance(found, Saga):
        raise InvalidSettings(
            f"{told_by}, which is a {type(found).__name__} and no Saga",
            next_step=f"name one of its sagas: {_sagas_of(module_name) or 'it has none'}",
        )
    return found


def _is_dotted(name: str) -> bool:
    return all(part.isidentifier() for part in name.split("."))


def _sagas_of(module_name: str) -> str:
    members = vars(importlib.import_module(module_name)).items()
    return ", ".join(f"{module_name}:{name}" for name, it in members if isinstance(it, Saga))
