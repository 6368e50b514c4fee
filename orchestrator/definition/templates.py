"""Templates of the addresses that REST steps call, such as "/charges/{charge}". Pure.

A value is quoted whole, so that it never becomes more than a part of a path or a query. What is not
known before the request is sent stays in the text: `{key}` and `{reply.member}`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import quote, unquote

from orchestrator.definition.probe import is_stand_in
from outbox.errors import InvalidMessage

KEY = "key"
"""The name of the id of the action: its idempotency key."""
REPLY = "reply"
"""The name of what the service answered to the action."""

MAX_LENGTH = 180
MAX_VALUE = 1000
_NAME = r"[a-z_][a-zA-Z0-9_]*"
_PLACE = re.compile(r"\{([^{}]*)\}")
_PLACE_NAME = re.compile(rf"{_NAME}(\.[A-Za-z0-9_-]+)*")
_PLAIN = re.compile(r"[A-Za-z0-9._~!$&'()*+,;=:@/?%-]*")
_METHODS = ("DELETE", "GET", "PATCH", "POST", "PUT")


def parted(call: str) -> tuple[str, str]:
    """The method and the template of "POST /charges". Raises InvalidMessage."""
    method, _, path = call.partition(" ")
    if method not in _METHODS or len(call) > MAX_LENGTH:
        raise _wrong(
            call,
            f"it does not begin with one of {', '.join(_METHODS)}"
            if method not in _METHODS
            else f"it has more than {MAX_LENGTH} characters",
            'write it as "POST /charges" or "DELETE /charges/{charge}"',
        )
    _check(call, path)
    return method, path


def places_in(template: str) -> set[str]:
    """The names of its values, those that are known only later included."""
    return {found.partition(".")[0] for found in _PLACE.findall(template)}


def expanded(template: str, values: Mapping[str, Any]) -> str:
    """The template with these values quoted in it. Raises InvalidMessage where one is missing, or
    cannot stand in an address."""

    def value_of(name: str) -> object:
        if name.partition(".")[0] in (KEY, REPLY):
            return None
        if name not in values:
            known = ", ".join(sorted(values)) or "none"
            raise _wrong(
                template,
                f"{{{name}}} has no value; given are: {known}",
                f'give values={{"{name}": ...}}',
            )
        return values[name]

    return _filled(template, value_of)


def filled(path: str, key: str, reply: object) -> str:
    """The address, with the id of the action and what is taken from the answer to it. Raises
    InvalidMessage where the answer has no such member."""

    return _filled(path, lambda name: known(path, name, key, reply))


def known(where: str, name: str, key: str, reply: object) -> object:
    """The value of "key" or "reply.member", which stands in `where`. Raises InvalidMessage where
    the answer has no such member."""
    first, *members = name.split(".")
    if first == KEY:
        return key
    found = reply
    for member in members:
        found = found.get(member) if isinstance(found, Mapping) else None
    if found is None:
        raise _wrong(
            where,
            f"the answer of the service has no {name}",
            "take another member of the answer, or {key}, which is the id of the action",
        )
    return found


def is_below(path: str, base: str) -> bool:
    """Whether that path lies below the base, however it is read."""
    plain = unquote(unquote(path))
    return (
        not _has_dots(plain) and "\\" not in plain and (path == base or path.startswith(f"{base}/"))
    )


def _has_dots(plain: str) -> bool:
    """Whether a part of that path is of dots alone, with a parameter or without."""
    parts = re.split(r"[/\\]", plain)
    return any(part.partition(";")[0] in (".", "..") for part in parts)


def _filled(template: str, value_of: Callable[[str], object]) -> str:
    def text_of(found: re.Match[str]) -> str:
        name = found[1]
        value = value_of(name)
        return found[0] if value is None else _quoted(template, name, value)

    return _PLACE.sub(text_of, template)


def _quoted(template: str, name: str, value: object) -> str:
    if is_stand_in(value):
        return "x"
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise _wrong(
            template, f"{{{name}}} is a {type(value).__name__}", "give it a text or a whole number"
        )
    text = str(value)
    # Some services take a quoted slash for a slash.
    if not 0 < len(text) <= MAX_VALUE or _has_dots(unquote(unquote(text))):
        raise _wrong(
            template,
            f"{{{name}}} is {text!r:.100}, which would make another address of it",
            f"give it a text of 1 to {MAX_VALUE} characters; in a compensation, what the service "
            "answered is {reply.member}, also where the answer was lost and is asked for",
        )
    try:
        return quote(text, safe="")
    except UnicodeEncodeError:
        raise _wrong(template, f"{{{name}}} is no valid text", "give it another one") from None


def _check(call: str, path: str) -> None:
    plain = _PLACE.sub("x", path)
    before_query = plain.partition("?")[0]
    problem = ""
    if not path.startswith("/") or path.startswith("//"):
        problem = "its path does not begin with one slash"
    elif "//" in before_query or not is_below(before_query, ""):
        problem = "its path has empty parts, or parts with dots alone"
    elif not _PLAIN.fullmatch(plain):
        problem = "it has characters that an address cannot have"
    elif wrong := [it for it in _PLACE.findall(path) if not _PLACE_NAME.fullmatch(it)]:
        problem = f"{{{wrong[0]}}} is no name of a value"
    if problem:
        raise _wrong(call, problem, 'write it as "POST /charges" or "DELETE /charges/{charge}"')


def _wrong(template: str, problem: str, next_step: str) -> InvalidMessage:
    return InvalidMessage(
        f"the REST call {template!r:.200} cannot be made: {problem}", next_step=next_step
    )
