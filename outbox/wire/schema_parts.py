"""What a schema of pydantic's says of the JSON that it reads, as one of three forms.

A `Leaf` is a text, a number, or what stands for one. `Items` are a JSON array, and `Members` an
object.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

Node: TypeAlias = Mapping[str, Any]
"""A part of the schema."""


@dataclass(frozen=True, slots=True)
class Leaf:
    """Anything without parts that are judged by themselves."""

    node: Node
    core: Node
    name: str

    @property
    def kind(self) -> str:
        """Pydantic's word for it."""
        word: str = self.core["type"]
        return word


@dataclass(frozen=True, slots=True)
class Items:
    """An array: the first elements one by one, and what may follow (None where nothing may)."""

    node: Node
    makes: object
    name: str
    first: tuple[Node, ...]
    rest: Node | None


@dataclass(frozen=True, slots=True)
class Members:
    """An object: its fields, which of them a reader wants and a writer never leaves out, and for
    one with names of any kind the schemas of these and of their values."""

    node: Node
    makes: object
    name: str
    fields: Mapping[str, Node]
    required: frozenset[str]
    written: frozenset[str]
    others: tuple[Node, Node] | None = None


Part: TypeAlias = "Leaf | Items | Members"

_AROUND = frozenset(
    {"default", "function-after", "function-before", "function-wrap", "custom-error"}
)
_SPLIT = frozenset({"json-or-python", "lax-or-strict"})
_ARRAYS = frozenset({"list", "set", "frozenset", "deque"})
_NAMES = {"decimal": "Decimal", "uuid": "UUID", "any": "Any", "none": "None"}
_ANY: Node = {"type": "any"}
_NONE: Node = {"type": "none"}


class SchemaParts:
    """The schema of one type, with the definitions that its references name."""

    def __init__(self, schema: Node) -> None:
        self._known: dict[str, Node] = {}
        self.root = schema
        if schema["type"] == "definitions":
            self.root = schema["schema"]
            self._known = {each["ref"]: each for each in schema["definitions"]}

    def core(self, node: Node) -> Node:
        """The node within that decides the form of the JSON."""
        while True:
            match node["type"]:
                case "definition-ref":
                    node = self._known[node["schema_ref"]]
                case kind if kind in _AROUND:
                    node = node["schema"]
                case "json-or-python":
                    node = node["json_schema"]
                case "lax-or-strict":
                    node = node["strict_schema"]
                case "chain":
                    node = node["steps"][-1]
                case "model" | "dataclass":
                    within = self.core(node["schema"])
                    if within["type"] in {"model-fields", "dataclass-args"}:
                        return node
                    node = within  # a root model, which is what its root is
                case _:
                    return node

    def parts(self, node: Node) -> Iterator[Part]:
        """The forms that the JSON may have; more than one of a union."""
        core = self.core(node)
        match core["type"]:
            case "nullable":
                yield Leaf(_NONE, _NONE, "None")
                yield from self.parts(core["schema"])
            case "union":
                for each in members_of(core):
                    yield from self.parts(each)
            case "tagged-union":
                for each in core["choices"].values():
                    yield from self.parts(each)
            case _:
                yield self._part(node, core)

    def _part(self, node: Node, core: Node) -> Part:
        name = _name(node, core)
        match core["type"]:
            case kind if kind in _ARRAYS:
                return Items(core, kind, name, (), core.get("items_schema", _ANY))
            case "tuple":
                each, index = tuple(core["items_schema"]), core.get("variadic_item_index")
                if index is None:
                    return Items(core, "tuple", name, each, None)
                return Items(core, "tuple", name, each[:index], each[index])
            case "named-tuple":
                first = tuple(each["schema"] for each in core["fields"])
                return Items(core, core["cls"], name, first, None)
            case "call" if core["arguments_schema"]["type"] == "arguments":
                first = tuple(it["schema"] for it in core["arguments_schema"]["arguments_schema"])
                return Items(core, core["function"], name, first, None)
            case "dict":
                others = core.get("keys_schema", _ANY), core.get("values_schema", _ANY)
                return Members(core, dict, name, {}, frozenset(), frozenset(), others)
            case "typed-dict" | "model" | "dataclass":
                fields = dict(self.fields(core))
                required = frozenset(key for key, it in fields.items() if is_required(it))
                written = required if core["type"] == "typed-dict" else frozenset(fields)
                schemas = {key: it["schema"] for key, it in fields.items()}
                return Members(core, core.get("cls"), name, schemas, required, written)
            case "any":
                return Leaf(_ANY, core, name)
            case _:
                return Leaf(self._itself(node), core, name)

    def _itself(self, node: Node) -> Node:
        """The node of a leaf, which can be used without the rest of the schema."""
        while True:
            match node:
                case {"type": "definition-ref", "schema_ref": ref}:
                    node = self._known[ref]
                case {"type": "default", "schema": within}:
                    node = within
                case {"type": kind} if kind in _AROUND | _SPLIT:
                    filled: Node = self._filled(node)
                    return filled
                case _:
                    return node

    def _filled(self, node: Any) -> Any:
        match node:
            case {"type": "definition-ref", "schema_ref": ref}:
                return self._filled(self._known[ref])
            case {"type": kind} if kind in _AROUND | _SPLIT:
                # A schema may stand twice in a union, and its name only once.
                return {key: self._filled(it) for key, it in node.items() if key != "ref"}
            case _:
                return node

    def fields(self, core: Node) -> Iterator[tuple[str, Node]]:
        """The fields of a class with fixed ones, by their names; none of another node."""
        match core["type"]:
            case "typed-dict" | "model-fields" if isinstance(core["fields"], Mapping):
                yield from core["fields"].items()
            case "dataclass-args" | "named-tuple":
                yield from ((each["name"], each) for each in core["fields"])
            case "model" | "dataclass":
                yield from self.fields(self.core(core["schema"]))
            case _:
                pass


def members_of(union: Node) -> list[Node]:
    """The members of a plain union."""
    return [each[0] if isinstance(each, tuple) else each for each in union["choices"]]


def is_required(field: Node) -> bool:
    """Whether an object without that field is refused."""
    return field["schema"]["type"] != "default" and bool(field.get("required", True))


def _name(node: Node, core: Node) -> str:
    found: object = core.get("cls") or _class_around(node)
    if isinstance(found, type):
        return found.__name__
    if core["type"] == "literal":
        return f"Literal{core['expected']!r}"
    kind: str = core["type"]
    return _NAMES.get(kind, kind)


def _class_around(node: Node) -> object:
    """The class that values have which Python hands in, for what JSON writes as something else."""
    match node:
        case {"type": "lax-or-strict", "strict_schema": inner}:
            return _class_around(inner)
        case {
            "type": "json-or-python",
            "python_schema": {"cls": cls} | {"choices": [{"cls": cls}, _]},
        }:
            return cls
        case {"type": kind, "schema": inner} if kind in _AROUND:
            return _class_around(inner)
        case _:
            return None
