"""The discovery of objects that a setting names as module:attribute, such as sagas.

By name, as in SAGABOX_SAGAS=shop.sagas:checkout,shop.sagas:refund, and among installed packages,
whose pyproject.toml says:

    [project.entry-points."sagabox.sagas"]
    checkout = "shop.sagas:checkout"
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable
from importlib.metadata import EntryPoint, entry_points
from types import ModuleType
from typing import Any, TypeVar

from orchestrator.definition.saga import Saga
from outbox.chassis.settings import InvalidSettings
from outbox.safe_text import described

T = TypeVar("T")

GROUP = "sagabox.sagas"
"""The group of entry points by which packages declare their sagas."""

_EXAMPLE = "shop.sagas:checkout"


def discover(names: str) -> list[Saga[Any]]:
    """The sagas named in "module:attribute,...", then those of installed packages, each once.

    Raises InvalidSettings, which names the module and its fault.
    """
    found = [
        *named(names, by="SAGABOX_SAGAS names", kind=Saga, example=_EXAMPLE),
        *_installed(entry_points(group=GROUP)),
    ]
    return list({id(saga): saga for saga in found}.values())


def named(names: str, *, by: str, kind: type[T], example: str) -> list[T]:
    """The objects named in "module:attribute,...", each of that kind, in that order.

    `by` begins the sentence of an error, and `example` shows the right form. Raises
    InvalidSettings, which names the module and its fault.
    """
    return [
        _load(name, f"{by} {name!r}", kind, example)
        for name in filter(None, map(str.strip, names.split(",")))
    ]


def one(name: str, *, by: str, kind: type[T], example: str) -> T:
    """The object named "module:attribute", or "module" where that has one object of the kind.

    Raises InvalidSettings as `named` does.
    """
    told_by = f"{by} {name!r}"
    if ":" in name or not _is_dotted(name):
        return _load(name, told_by, kind, example)
    members = vars(_imported(name, told_by)).values()
    found = {id(it): it for it in members if isinstance(it, kind)}
    if len(found) != 1:
        raise InvalidSettings(
            f"{told_by}, which has {len(found) or 'no'} values of the kind {kind.__name__}",
            next_step=_others(name, kind),
        )
    return found.popitem()[1]


def _installed(points: Iterable[EntryPoint]) -> Iterable[Saga[Any]]:
    for point in sorted(points, key=lambda it: it.name):
        package = point.dist.name if point.dist is not None else "a package"
        told_by = f"{package} declares the entry point {point.name} = {point.value}"
        yield _load(point.value, told_by, Saga, _EXAMPLE)


def _load(path: str, told_by: str, kind: type[T], example: str) -> T:
    module_name, _, attribute = path.partition(":")
    if not module_name or not attribute or not _is_dotted(module_name) or not _is_dotted(attribute):
        raise InvalidSettings(
            f"{told_by}, which is not module:attribute",
            next_step=f"write it as in {example}",
        )
    found: Any = _imported(module_name, told_by)
    for part in attribute.split("."):
        if not hasattr(found, part):
            raise InvalidSettings(
                f"{told_by}, and {module_name!r} has no {attribute!r}",
                next_step=_others(module_name, kind),
            )
        found = getattr(found, part)
    if not isinstance(found, kind):
        raise InvalidSettings(
            f"{told_by}, which is a {type(found).__name__} and no {kind.__name__}",
            next_step=_others(module_name, kind),
        )
    return found


def _imported(module_name: str, told_by: str) -> ModuleType:
    try:
        return importlib.import_module(module_name)
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


def _is_dotted(name: str) -> bool:
    return all(part.isidentifier() for part in name.split("."))


def _others(module_name: str, kind: type[Any]) -> str:
    members = vars(importlib.import_module(module_name)).items()
    there = ", ".join(f"{module_name}:{name}" for name, it in members if isinstance(it, kind))
    return f"name one of its values that is: {there or 'it has none'}"
