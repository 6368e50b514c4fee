"""What code that was written for an earlier version would not find, or find otherwise, among the
public names of a later one. Both are as `describing` writes them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

_Parameter = Mapping[str, Any]
_BY_POSITION = ("POSITIONAL_ONLY", "POSITIONAL_OR_KEYWORD")
_BY_NAME = ("POSITIONAL_OR_KEYWORD", "KEYWORD_ONLY")
_SEVERAL = ("VAR_POSITIONAL", "VAR_KEYWORD")


def broken(old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[str]:
    """As sentences, each with the name's whole path in front."""
    for module, names in old.items():
        if module not in new:
            yield f"{module}: the module is gone"
            continue
        for name, was in names.items():
            if name not in new[module]:
                yield f"{module}.{name}: the name is gone"
            else:
                yield from _name(f"{module}.{name}", was, new[module][name])


def _name(path: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[str]:
    if old["kind"] != new["kind"]:
        yield f"{path}: it was a {old['kind']}, and is a {new['kind']}"
        return
    match old["kind"]:
        case "function":
            yield from _call(path, old["parameters"], new["parameters"])
        case "class" | "protocol":
            yield from _class(path, old, new)
        case "value" if old["value"] != new["value"]:
            yield f"{path}: it was {old['value']}, and is {new['value']}"
        case _:
            pass


def _class(path: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[str]:
    yield from (
        f"{path}: it is no {base} any more" for base in old["bases"] if base not in new["bases"]
    )
    yield from _call(path, old["parameters"], new["parameters"])
    for member, was in old["members"].items():
        if member not in new["members"]:
            yield f"{path}.{member}: the name is gone"
        else:
            yield from _name(f"{path}.{member}", was, new["members"][member])
    if old["kind"] == "protocol":
        # A class of the user's, which has what the earlier one asked for, lacks it.
        added = new["members"].keys() - old["members"].keys()
        yield from (f"{path}.{it}: a class that implements it lacks this" for it in sorted(added))


def _call(
    path: str, old: Sequence[_Parameter] | None, new: Sequence[_Parameter] | None
) -> Iterator[str]:
    """What a call that was right would be refused for, or would mean something else by."""
    if old is None or new is None:
        if old is not new:
            yield f"{path}: it can be called no more, or was made callable"
        return
    named = {it["name"]: it for it in new}
    for was in old:
        now = named.get(was["name"])
        if was["kind"] in _SEVERAL:
            if was["kind"] not in {it["kind"] for it in new}:
                yield f"{path}: it takes no further arguments any more ({was['name']})"
        elif now is None:
            yield f"{path}: the parameter {was['name']} is gone"
        else:
            yield from _parameter(path, was, now)
    known = {it["name"] for it in old}
    for it in new:
        if it["name"] not in known and it["default"] is None and it["kind"] not in _SEVERAL:
            yield f"{path}: the new parameter {it['name']} has no default"
    yield from _order(path, old, new)


def _parameter(path: str, was: _Parameter, now: _Parameter) -> Iterator[str]:
    name = was["name"]
    if was["kind"] in _BY_NAME and now["kind"] not in _BY_NAME:
        yield f"{path}: the parameter {name} cannot be given by its name any more"
    if was["default"] is not None and now["default"] is None:
        yield f"{path}: the parameter {name} has no default any more"
    elif was["default"] not in (None, now["default"]):
        yield f"{path}: the default of {name} was {was['default']}, and is {now['default']}"


def _order(path: str, old: Sequence[_Parameter], new: Sequence[_Parameter]) -> Iterator[str]:
    earlier, later = _positions(old), _positions(new)
    present = {it["name"] for it in new}
    for number, name in enumerate(earlier):
        if name in present and later[number : number + 1] != [name]:
            yield f"{path}: the parameter {name} stands at another position"


def _positions(parameters: Sequence[_Parameter]) -> list[str]:
    return [it["name"] for it in parameters if it["kind"] in _BY_POSITION]
