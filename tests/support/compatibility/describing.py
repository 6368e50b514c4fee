"""What a version offers, as JSON: run as a program, by the path of this file, in the environment of
that version. It imports nothing else of the tests.

    python -P describing.py MODULE...

The modules are those whose names are public.
"""

from __future__ import annotations

import base64
import dataclasses
import enum
import importlib
import inspect
import json
import os
import sys
from collections.abc import Iterator, Mapping
from datetime import timedelta
from types import ModuleType
from typing import Any

_OURS = ("outbox", "orchestrator")
_SETTINGS = {
    "orchestrator": ("orchestrator.settings", "OrchestratorSettings"),
    "articles": ("articles.settings", "ArticlesSettings"),
    "comments": ("comments.settings", "CommentsSettings"),
}
_PLAIN = (type(None), bool, int, float, str, bytes, timedelta)


def described(modules: list[str]) -> dict[str, Any]:
    """All of it."""
    return {
        "names": {name: _module(importlib.import_module(name)) for name in modules},
        "addresses": {name: _addresses(name) for name in _SETTINGS},
        "settings": {name: _settings(*where) for name, where in _SETTINGS.items()},
        "commands": _commands(),
    }


# --- Python ------------------------------------------------------------------------------------


def _module(module: ModuleType) -> dict[str, Any]:
    names = getattr(module, "__all__", None)
    if names is None:
        names = [name for name, it in vars(module).items() if _is_defined_in(module, name, it)]
    return {name: _name(getattr(module, name)) for name in sorted(names)}


def _is_defined_in(module: ModuleType, name: str, it: object) -> bool:
    is_code = inspect.isfunction(it) or inspect.isclass(it)
    return not name.startswith("_") and is_code and it.__module__ == module.__name__


def _name(it: Any) -> dict[str, Any]:
    if inspect.ismodule(it):
        return {"kind": "module"}  # the reference lists it by itself, or it is no promise
    if inspect.isclass(it):
        return _class(it)
    if callable(it):
        return {"kind": "function", "parameters": _parameters(it)}
    return {"kind": "value", "value": _default(it)}


def _class(it: type[Any]) -> dict[str, Any]:
    is_protocol = bool(getattr(it, "_is_protocol", False))
    has_constructor = not is_protocol and not issubclass(it, enum.Enum)
    return {
        "kind": "protocol" if is_protocol else "class",
        "bases": [base.__name__ for base in it.__mro__ if base is not object],
        "parameters": _parameters(it) if has_constructor else None,
        "members": dict(_members(it)),
    }


def _members(it: type[Any]) -> Iterator[tuple[str, Any]]:
    if issubclass(it, enum.Enum):
        yield from ((name, {"kind": "value", "value": repr(at.value)}) for name, at in _enum(it))
    if dataclasses.is_dataclass(it):
        yield from ((field.name, {"kind": "attribute"}) for field in dataclasses.fields(it))
    for name in {name: None for base in reversed(_own(it)) for name in vars(base)}:
        if not name.startswith("_"):
            found = inspect.getattr_static(it, name)
            if isinstance(found, (staticmethod, classmethod)) or inspect.isfunction(found):
                yield name, {"kind": "function", "parameters": _parameters(getattr(it, name))}
            elif not isinstance(found, it):
                yield name, {"kind": "attribute"}


def _enum(it: type[enum.Enum]) -> Iterator[tuple[str, enum.Enum]]:
    yield from it.__members__.items()


def _own(it: type[Any]) -> list[type[Any]]:
    return [base for base in it.__mro__ if base.__module__.partition(".")[0] in _OURS]


def _parameters(it: Any) -> list[dict[str, Any]] | None:
    try:
        signature = inspect.signature(it)
    except (TypeError, ValueError):
        return None
    return [
        {
            "name": each.name,
            "kind": each.kind.name,
            "default": None if each.default is each.empty else _default(each.default),
        }
        for each in signature.parameters.values()
        if each.name != "self"
    ]


def _default(value: object) -> str:
    """What can be compared of it between processes."""
    if isinstance(value, (*_PLAIN, enum.Enum)):
        return repr(value)
    return f"a {type(value).__name__}"


# --- The services ------------------------------------------------------------------------------


def environment() -> Mapping[str, str]:
    """What the services need to be put together; none of them is started."""
    peers = ",".join(f"{name}=http://127.0.0.1:1" for name in _SETTINGS)
    return {
        "SAGABOX_SECRETS": "test:"
        + base64.b64encode(b"a secret for descriptions alone..").decode(),
        "SAGABOX_SAGAS": "orchestrator.sagas.delete_article:delete_article",
        "SAGABOX_PEERS": peers,
        **{f"SAGABOX_DATABASE_URL_{it.upper()}": "sqlite:///nowhere.sqlite" for it in _SETTINGS},
    }


def _addresses(service: str) -> Any:
    app = importlib.import_module(f"{service}.app").create_app()
    return app.openapi()


def _settings(module: str, name: str) -> dict[str, str | None]:
    """Each variable and its default; None where it must be given."""
    settings = getattr(importlib.import_module(module), name)
    return {
        settings.variable(field): None if it.is_required() else repr(it.default)
        for field, it in settings.model_fields.items()
    }


def _commands() -> dict[str, Any]:
    import typer.main

    root = typer.main.get_command(importlib.import_module("orchestrator.cli").main)
    return dict(_commands_below("sagabox", root))


def _commands_below(path: str, command: Any) -> Iterator[tuple[str, Any]]:
    yield (
        path,
        {
            "options": {
                option: {"takes_value": not it.is_flag, "required": it.required}
                for it in command.params
                if it.param_type_name == "option"
                for option in (*it.opts, *it.secondary_opts)
            },
            "arguments": [
                {"name": it.name, "required": it.required, "several": it.nargs != 1}
                for it in command.params
                if it.param_type_name == "argument"
            ],
        },
    )
    for name, below in getattr(command, "commands", {}).items():
        yield from _commands_below(f"{path} {name}", below)


if __name__ == "__main__":
    os.environ.update(environment())
    json.dump(described(sys.argv[1:]), sys.stdout)
