"""Which declared types come back as they were sent, judged by the schema that pydantic derives.

Refused is what loses or changes values by its declaration. A value that is at fault itself, such as
one of a subclass, is found when it is encoded.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from outbox.wire.schema_parts import Leaf, Members, Node, Part, SchemaParts, is_required, members_of
from outbox.wire.shape import Shape
from outbox.wire.unions import CLOSED, KeyShape, Unions, comes_back, values_of

_SOUND = frozenset(
    {"any", "none", "bool", "int", "float", "decimal", "str", "bytes", "complex"}
    | {"date", "time", "datetime", "timedelta", "uuid", "url", "multi-host-url"}
)
_NO_JSON = frozenset({"callable", "generator", "is-subclass", "json"})
_CLASSES = frozenset({"dataclass", "model", "typed-dict", "named-tuple"})


@dataclass(frozen=True, slots=True)
class Flaw:
    """A reason why a declared type is refused, and the way out."""

    problem: str
    next_step: str


def flaw_in(schema: Node) -> Flaw | None:
    """The first flaw of the type, which names the class and the field; None where it is sound."""
    return next(_Declaration(schema).flaws(), None)


class _Declaration:
    def __init__(self, schema: Node) -> None:
        self._parts = SchemaParts(schema)
        self._unions = Unions(self._parts)
        self._seen: set[int] = set()

    def flaws(self) -> Iterator[Flaw]:
        return self._of(self._parts.root, "it")

    def _of(self, node: Node, where: str) -> Iterator[Flaw]:
        core = self._parts.core(node)
        # Each node once: a recursive type meets itself again.
        if id(core) in self._seen:
            return
        self._seen.add(id(core))
        match core["type"]:
            case "nullable":
                yield from self._of(core["schema"], where)
            case "union":
                for each in members_of(core):
                    yield from self._of(each, where)
                pair = self._unions.confused(core)
                if pair is not None:
                    yield _confusion(where, *pair)
            case "tagged-union":
                for each in core["choices"].values():
                    yield from self._of(each, where)
            case _:
                for part in self._parts.parts(node):
                    yield from self._of_part(part, where)

    def _of_part(self, part: Part, where: str) -> Iterator[Flaw]:
        if isinstance(part, Leaf):
            yield from _of_leaf(part, where)
            return
        if part.node["type"] in _CLASSES:
            for name, field in self._parts.fields(part.node):
                place = f"the field {name!r} of {part.name}"
                yield from _of_field(name, field, place, part.node.get("config") or {})
                yield from self._of(field["schema"], place)
        elif isinstance(part, Members):
            assert part.others is not None, "it is a dict"
            yield from self._of_keys(part.others[0], where)
            yield from self._of(part.others[1], where)
        else:
            for each in (*part.first, part.rest):
                if each is not None:
                    yield from self._of(each, where)

    def _of_keys(self, keys: Node, where: str) -> Iterator[Flaw]:
        pair = self._unions.confused_keys(keys)
        if pair is not None:
            yield _confusion(f"a key of {where}", *pair)
        for part in self._parts.parts(keys):
            if not _can_be_key(part):
                yield Flaw(
                    f"a key of {where} is of {part.name}, which cannot be read from the text that "
                    "a key is in JSON",
                    "use keys of str, or a list of pairs",
                )


def _can_be_key(part: Part) -> bool:
    match part:
        case Leaf(core={"type": "any"}):
            return True  # a key that is no text is refused by its value
        case Leaf():
            shape = KeyShape(part.node)
            return all(comes_back(shape, value) for value in values_of(part))
        case _:
            return False


def _of_leaf(leaf: Leaf, where: str) -> Iterator[Flaw]:
    if leaf.node is leaf.core and leaf.kind in _SOUND and "serialization" not in leaf.node:
        return
    values = [] if leaf.kind in _NO_JSON else list(values_of(leaf))
    if leaf.kind in _NO_JSON or (leaf.kind == "is-instance" and not values):
        yield Flaw(
            f"{where} is of {leaf.name}, which JSON cannot carry",
            "declare what is to be sent: text, numbers, times, dataclasses, lists and dicts",
        )
        return
    shape = Shape(leaf.node)
    if all(comes_back(shape, value) for value in values):
        return
    if leaf.kind in CLOSED:
        yield Flaw(
            f"{where} is of {leaf.name}, and not each of its values is read as it was written",
            "give it values that are texts or numbers",
        )
    else:
        yield Flaw(
            f"{where} is of {leaf.name}, which is not read as it was written",
            "declare what is to be written, such as str in place of SecretStr",
        )


def _of_field(name: str, field: Node, where: str, config: Node) -> Iterator[Flaw]:
    if field.get("init_only") and is_required(field):
        yield Flaw(
            f"{where} is an InitVar, which no object keeps, so that it cannot be made again",
            "make it a field, or give it a default",
        )
    if field.get("serialization_exclude") and field.get("init", True):
        yield Flaw(
            f"{where} is excluded, so that it is never sent",
            "take exclude=True away, or the field out of the class",
        )
    by_alias = bool(config.get("serialize_by_alias"))
    written = field.get("serialization_alias", name) if by_alias else name
    if written not in set(_names_read(name, field, config)):
        yield Flaw(
            f"{where} is written as {written!r}, and read under another name",
            "take the alias away, or give the class validate_by_name=True",
        )


def _names_read(name: str, field: Node, config: Node) -> Iterator[str]:
    alias = field.get("validation_alias")
    if alias is None or config.get("validate_by_name") or config.get("populate_by_name"):
        yield name
    for path in [alias] if isinstance(alias, str) else alias or ():
        if isinstance(path, str):
            yield path
        elif len(path) == 1:
            yield from path


def _confusion(where: str, one: Part, other: Part) -> Flaw:
    problem = (
        f"{where} may be {one.name} or {other.name}, and JSON does not tell which it was, so that "
        "one may arrive as the other"
    )
    match one, other:
        case Members(), Members():
            return Flaw(
                problem,
                "give each class a field such as kind: Literal['...'] = '...', and declare the "
                "union as Annotated[... | ..., Discriminator('kind')], from pydantic",
            )
        case _:
            return Flaw(problem, "declare one of them, or a field for each")
