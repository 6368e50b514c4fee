"""A found story as the source of a test that plays it again."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterable
from dataclasses import dataclass
from pprint import pformat
from typing import Any

from orchestrator.definition.saga import Saga
from orchestrator.errors import InvalidInput
from orchestrator.testing.exploring.model.events import Event
from orchestrator.testing.exploring.model.view import Invariant

_LENGTH = 92  # columns of a line within the test


@dataclass(frozen=True)
class Played:
    """What a test needs to play a story again: `input` and `replies` as JSON values."""

    saga: Saga[Any]
    input: Any
    replies: dict[str, tuple[Any, ...]]
    invariants: tuple[Invariant, ...]
    events: tuple[Event, ...]
    lines: tuple[str, ...]
    promise: str
    problem: str


def pytest_source(played: Played, saga: str | None) -> str:
    """A module for pytest. `saga` is where the saga is found, as module:attribute; left out, it is
    looked for where its functions were written. Raises InvalidInput where it, or an invariant,
    cannot be imported by a name."""
    module, name = _parted(saga) if saga is not None else _found(played.saga)
    imports = {(module, name), *(_imported(it) for it in played.invariants)}
    names = {"Event", "What", "replay"}
    events = [event.source() for event in played.events]
    if any("crash=Crash." in event for event in events):
        names.add("Crash")
    if any("answer=Outcome." in event for event in events):
        imports.add(("outbox", "Outcome"))
    if len({it.partition(".")[0] for _, it in imports} | names) < len(imports) + len(names):
        raise InvalidInput(
            "the saga and its invariants cannot be imported under one name each",
            next_step="rename those of the same name, or those named like what a test imports: "
            f"{', '.join(sorted(names))}",
        )
    return "\n".join(
        (
            f'"""{played.saga} must not break this promise again: {played.promise}."""',
            "",
            "from __future__ import annotations",
            "",
            *_import_lines(imports, names),
            "",
            "",
            f"def {_test_name(played)}() -> None:",
            *(f"    # {line}" for line in _wrapped(f"{played.promise}: {played.problem}")),
            *_call(played, name),
            "",
        )
    )


def _call(played: Played, name: str) -> Iterable[str]:
    yield "    replay("
    yield f"        {name},"
    yield from _value("", played.input)
    yield "        ["
    for number, (event, line) in enumerate(zip(played.events, played.lines, strict=True), 1):
        yield from (f"            # {it}" for it in _wrapped(f"{number}. {line}"))
        yield f"            {event.source()},"
    yield "        ],"
    if any(values != (None,) for values in played.replies.values()):
        known = {step: list(values) for step, values in played.replies.items() if values != (None,)}
        yield from _value("replies=", known)
    if played.invariants:
        listed = ", ".join(_imported(it)[1] for it in played.invariants)
        yield f"        invariants=[{listed}],"
    yield "    )"


def _value(label: str, value: Any) -> Iterable[str]:
    text = f"{label}{pformat(value, width=_LENGTH - len(label), sort_dicts=False)},"
    return textwrap.indent(text, " " * 8).splitlines()


def _wrapped(text: str) -> list[str]:
    # One line each, whichever text it is: what follows a line break would be code.
    printable = "".join(it if it.isprintable() else " " for it in text)
    return textwrap.wrap(" ".join(printable.split()), _LENGTH - 8)


def _test_name(played: Played) -> str:
    words = f"{played.saga.name} keeps {played.promise}"
    return "test_" + re.sub(r"\W+", "_", words, flags=re.ASCII).strip("_").lower()


def _import_lines(imports: Iterable[tuple[str, str]], names: set[str]) -> Iterable[str]:
    found: dict[str, set[str]] = {"orchestrator.testing": names}
    for module, name in imports:
        found.setdefault(module, set()).add(name.partition(".")[0])
    for module in sorted(found):
        yield f"from {module} import {', '.join(sorted(found[module]))}"


def _parted(path: str) -> tuple[str, str]:
    module, _, name = path.partition(":")
    if not all(part.isidentifier() for part in (*module.split("."), *name.split("."))):
        raise InvalidInput(
            f"{path!r} is not module:attribute", next_step="write it as in shop.sagas:checkout"
        )
    return module, name


def _found(saga: Saga[Any]) -> tuple[str, str]:
    steps = (it for step in saga.steps for it in (step.action, step.compensation))
    for function in (saga.key, *steps):
        module = getattr(function, "__module__", None)
        known: dict[str, Any] = getattr(function, "__globals__", {})
        for name, value in known.items():
            if value is saga and module and module != "__main__":
                return module, name
    raise InvalidInput(
        f"where {saga} can be imported from is not to be seen",
        next_step='say it: as_pytest("shop.sagas:checkout")',
    )


def _imported(invariant: Invariant) -> tuple[str, str]:
    module = getattr(invariant, "__module__", None)
    name = getattr(invariant, "__qualname__", "")
    known: dict[str, Any] = getattr(invariant, "__globals__", {})
    if not module or module == "__main__" or known.get(name) is not invariant:
        raise InvalidInput(
            f"the invariant {name or invariant!r} cannot be imported by a name",
            next_step="write it as a function at the top level of a module",
        )
    return module, name
