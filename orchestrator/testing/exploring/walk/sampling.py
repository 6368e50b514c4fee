"""Values made up from types, so that a saga can be explored without an input written by hand."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn, TypeVar

from pydantic import TypeAdapter
from pydantic.errors import PydanticUndefinedAnnotation, PydanticUserError

from orchestrator.definition.saga import Saga
from orchestrator.errors import InvalidInput
from outbox.errors import InvalidMessage
from outbox.messages import reply_type
from outbox.wire.codec import decode_value, encode_value

S = TypeVar("S")

_DEEPEST = 20  # levels of a value that holds values
_PLAIN: Mapping[str, Any] = {
    "any": None,
    "none": None,
    "bool": False,
    "date": "2030-01-01",
    "time": "00:00:00",
    "datetime": "2030-01-01T00:00:00Z",
    "timedelta": "PT1M",
    "uuid": "0190a000-0000-7000-8000-000000000002",
    "url": "http://127.0.0.1/",
    "bytes": "",
}
_WITHIN = ("schema", "json_schema")


def sample_input(saga: Saga[S]) -> S:
    """An input for the saga, made up from the types of its state: of what has a default, that;
    of a text, the name of its field. Raises InvalidInput where no such value fits."""
    made = sample(saga.state, f"no input for {saga} can be made up", "give one as state=")
    try:
        state = decode_value(saga.state, made)
        saga.accept(state)
    except (InvalidMessage, InvalidInput) as error:
        raise InvalidInput(
            f"no input for {saga} can be made up: {error.problem}", next_step="give one as state="
        ) from error
    return state


def sample_replies(
    saga: Saga[Any], replies: Mapping[str, Sequence[Any]]
) -> dict[str, tuple[Any, ...]]:
    """For every step the JSON values that its action may be answered with: those that are given,
    else one that is made up. Raises InvalidInput where one does not fit, or none can be made."""
    names = [step.name for step in saga.steps]
    for name in replies:
        if name not in names:
            raise InvalidInput(
                f"replies= names {name!r}, which is no step of {saga}",
                next_step=f"its steps are {', '.join(map(repr, names))}",
            )
    return {name: _replies_of(saga, name, replies.get(name)) for name in names}


def _replies_of(saga: Saga[Any], step: str, given: Sequence[Any] | None) -> tuple[Any, ...]:
    problem = f"what step {step!r} of {saga} may be answered with"
    advice = f"give its values as replies={{{step!r}: [...]}}"
    tp = reply_type(saga.actions[step])
    if given is not None and not given:
        raise InvalidInput(f"replies= has no value for step {step!r}", next_step=advice)
    try:
        values = (
            tuple(map(encode_value, given))
            if given is not None
            else (sample(tp, f"{problem} cannot be made up", advice),)
        )
        for value in values:
            saga.decode_reply(step, value)
    except InvalidMessage as error:
        raise InvalidInput(f"{problem}: {error.problem}", next_step=advice) from error
    return values


def sample(tp: Any, problem: str, advice: str) -> Any:
    """A JSON value of that type. Raises InvalidInput, which says so by `problem` and `advice`."""
    try:
        schema = TypeAdapter(tp).core_schema
    except (PydanticUserError, PydanticUndefinedAnnotation) as error:
        raise InvalidInput(f"{problem}: {error}".splitlines()[0], next_step=advice) from error
    return _Sampler(problem, advice).value(schema, "a value", 0)


class _Sampler:
    def __init__(self, problem: str, advice: str) -> None:
        self._problem = problem
        self._advice = advice
        self._known: dict[str, Any] = {}

    def value(self, node: Any, name: str, depth: int) -> Any:
        kind = node["type"]
        if depth > _DEEPEST:
            self._fail(name, "holds values of its own type, without an end")
        if kind in _PLAIN:
            return _PLAIN[kind]
        match kind:
            case "str":
                return self._text(node, name)
            case "int":
                return math.floor(self._number(node)) + (1 if "gt" in node else 0)
            case "float":
                return float(self._number(node) + (1 if "gt" in node else 0))
            case "decimal":
                return str(self._number(node) + (1 if "gt" in node else 0))
            case "literal":
                return _plain(node["expected"][0])
            case "enum":
                return _plain(node["members"][0])
            case "list" | "set" | "frozenset":
                return self._items(node, name, depth)
            case "tuple":
                parts = node["items_schema"]
                variadic = node.get("variadic_item_index")
                return [
                    self.value(part, name, depth + 1)
                    for index, part in enumerate(parts)
                    if index != variadic
                ]
            case "dict":
                if node.get("min_length"):
                    self._fail(name, "must not be empty")
                return {}
            case "nullable":
                return None
            case "union":
                first = node["choices"][0]
                return self.value(first[0] if isinstance(first, tuple) else first, name, depth + 1)
            case "tagged-union":
                return self.value(next(iter(node["choices"].values())), name, depth + 1)
            case "definitions":
                self._known |= {each["ref"]: each for each in node["definitions"]}
                return self.value(node["schema"], name, depth + 1)
            case "definition-ref":
                return self.value(self._known[node["schema_ref"]], name, depth + 1)
            case "dataclass-args" | "model-fields" | "typed-dict":
                return self._fields(node["fields"], depth)
            case "chain":
                return self.value(node["steps"][-1], name, depth + 1)
            case _:
                for key in _WITHIN:
                    if key in node:
                        return self.value(node[key], name, depth + 1)
                self._fail(name, f"is of a kind ({kind}) that nothing can be made up for")

    def _fields(self, fields: Any, depth: int) -> dict[str, Any]:
        named = fields.items() if isinstance(fields, dict) else ((it["name"], it) for it in fields)
        return {
            name: self.value(field["schema"], name, depth + 1)
            for name, field in named
            if field["schema"]["type"] != "default" and field.get("required", True)
        }

    def _text(self, node: Any, name: str) -> str:
        if "pattern" in node:
            self._fail(name, "must match a pattern")
        text = name.replace("_", "-")
        longest = node.get("max_length", len(text))
        return text[:longest].ljust(node.get("min_length", 0), "-")

    def _number(self, node: Any) -> Any:
        lowest = node.get("ge", node.get("gt"))
        highest = node.get("le", node.get("lt"))
        if lowest is not None:
            return lowest
        return 1 if highest is None or highest > 1 else highest - 1

    def _items(self, node: Any, name: str, depth: int) -> list[Any]:
        many = node.get("min_length", 0)
        if many > 1 and node["type"] != "list":
            self._fail(name, f"must hold {many} different values")
        return [self.value(node["items_schema"], name, depth + 1) for _ in range(many)]

    def _fail(self, name: str, why: str) -> NoReturn:
        raise InvalidInput(f"{self._problem}: {name!r} {why}", next_step=self._advice)


def _plain(value: Any) -> Any:
    return getattr(value, "value", value)
