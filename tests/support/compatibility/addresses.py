"""What a caller that was written for an earlier version of an API would miss in a later one. Both
are documents of OpenAPI.

An answer may get further fields and values, a request further fields that can be left out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

_METHODS = ("get", "put", "post", "delete", "patch")
_JSON = "application/json"


def broken(old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[str]:
    """As sentences, each with the method and the path in front."""
    for path, was in old["paths"].items():
        for method in _METHODS:
            if method in was:
                name = f"{method.upper()} {path}"
                now = new["paths"].get(path, {}).get(method)
                if now is None:
                    yield f"{name}: it is gone"
                else:
                    yield from _parameters(name, _Parameters(old, was[method]), new, now)
                    yield from _request(name, old, was[method], new, now)
                    yield from _answers(name, old, was[method], new, now)


@dataclass(frozen=True)
class _Parameters:
    """Those of one operation, by where they stand and their names."""

    document: Mapping[str, Any]
    operation: Mapping[str, Any]

    def named(self) -> dict[tuple[str, str], Mapping[str, Any]]:
        return {(it["in"], it["name"]): it for it in self.operation.get("parameters", ())}


def _parameters(
    name: str, old: _Parameters, document: Mapping[str, Any], operation: Mapping[str, Any]
) -> Iterator[str]:
    earlier, later = old.named(), _Parameters(document, operation).named()
    for (where, it), was in earlier.items():
        now = later.get((where, it))
        if now is None:
            yield f"{name}: the parameter {it} ({where}) is gone"
        else:
            of = f"the parameter {it} ({where})"
            yield from _taken(f"{name}: {of}", old.document, was["schema"], document, now["schema"])
    for (where, it), now in later.items():
        was_required = earlier.get((where, it), {}).get("required", False)
        if now.get("required", False) and not was_required:
            yield f"{name}: the parameter {it} ({where}) must be given now"


def _request(
    name: str,
    old: Mapping[str, Any],
    was: Mapping[str, Any],
    new: Mapping[str, Any],
    now: Mapping[str, Any],
) -> Iterator[str]:
    body, later = was.get("requestBody"), now.get("requestBody")
    if (later or {}).get("required", False) and not (body or {}).get("required", False):
        yield f"{name}: a body must be given now"
    for kind, content in (body or {}).get("content", {}).items():
        taken = (later or {}).get("content", {}).get(kind)
        if taken is None:
            yield f"{name}: it takes no {kind} any more"
        else:
            of = f"{name}: the body"
            yield from _taken(of, old, content.get("schema", {}), new, taken.get("schema", {}))


def _answers(
    name: str,
    old: Mapping[str, Any],
    was: Mapping[str, Any],
    new: Mapping[str, Any],
    now: Mapping[str, Any],
) -> Iterator[str]:
    for status, answer in was.get("responses", {}).items():
        given = now.get("responses", {}).get(status)
        if given is None:
            yield f"{name}: it answers no {status} any more"
            continue
        for kind, content in answer.get("content", {}).items():
            if kind not in given.get("content", {}):
                yield f"{name}: {status} is no {kind} any more"
                continue
            schema, later = content.get("schema", {}), given["content"][kind].get("schema", {})
            yield from _given(f"{name}: {status}", old, schema, new, later)


@dataclass
class _Fields:
    """Everything within a schema, by its path: `types` and values that it may have, and whether it
    is always there."""

    types: dict[str, set[str]] = field(default_factory=dict)
    required: set[str] = field(default_factory=set)
    values: dict[str, set[str]] = field(default_factory=dict)


def _taken(
    of: str,
    old: Mapping[str, Any],
    was: Mapping[str, Any],
    new: Mapping[str, Any],
    now: Mapping[str, Any],
) -> Iterator[str]:
    earlier, later = _fields(old, was), _fields(new, now)
    for path, types in earlier.types.items():
        if path not in later.types:
            yield f"{of} takes no field {path} any more"
            continue
        if later.types[path] and (refused := types - later.types[path]):
            yield f"{of} takes no {_list(refused)} as {path or 'a whole'} any more"
        if path in later.values and (
            refused := earlier.values.get(path, {"any other value"}) - later.values[path]
        ):
            yield f"{of} takes no {_list(refused)} as {path or 'a whole'} any more"
    for path in sorted(later.required - earlier.required):
        yield f"{of} must have the field {path} now"


def _given(
    of: str,
    old: Mapping[str, Any],
    was: Mapping[str, Any],
    new: Mapping[str, Any],
    now: Mapping[str, Any],
) -> Iterator[str]:
    earlier, later = _fields(old, was), _fields(new, now)
    for path, types in earlier.types.items():
        if path not in later.types:
            yield f"{of} has no field {path} any more"
        elif types and (other := (later.types[path] or {"any type"}) - types):
            yield f"{of} may have {_list(other)} as {path or 'a whole'}"
    for path in sorted(earlier.required - later.required):
        if path in later.types:
            yield f"{of} may lack the field {path} now"


def _fields(document: Mapping[str, Any], schema: Mapping[str, Any]) -> _Fields:
    found = _Fields()
    _walk(document, schema, "", found, ())
    return found


def _walk(
    document: Mapping[str, Any],
    schema: Mapping[str, Any],
    path: str,
    into: _Fields,
    within: tuple[str, ...],
) -> None:
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        if name not in within:  # a tree of the same
            target = document["components"]["schemas"][name]
            _walk(document, target, path, into, (*within, name))
        return
    types = into.types.setdefault(path, set())
    for branch in (*schema.get("anyOf", ()), *schema.get("oneOf", ()), *schema.get("allOf", ())):
        _walk(document, branch, path, into, within)
    if "type" in schema:
        given = schema["type"]
        types.update([given] if isinstance(given, str) else given)
    if "const" in schema or "enum" in schema:
        values = schema.get("enum", [schema.get("const")])
        into.values.setdefault(path, set()).update(map(repr, values))
    for name, each in schema.get("properties", {}).items():
        below = f"{path}.{name}".removeprefix(".")
        if name in schema.get("required", ()):
            into.required.add(below)
        _walk(document, each, below, into, within)
    for word, below in (("items", f"{path}[]"), ("additionalProperties", f"{path}{{}}")):
        if isinstance(schema.get(word), Mapping):
            _walk(document, schema[word], below, into, within)


def _list(of: set[str]) -> str:
    return " or ".join(sorted(of))
