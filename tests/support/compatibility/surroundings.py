"""What a deployment that was written for an earlier version would miss in a later one: variables of
the environment, commands and their options. Both are as `describing` writes them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any


def broken_settings(old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[str]:
    """As sentences, each with the service and the variable in front."""
    for service, variables in old.items():
        later = new.get(service, {})
        for variable, default in variables.items():
            of = f"{service}: {variable}"
            if variable not in later:
                yield f"{of} is not known any more"
            elif default is not None and later[variable] is None:
                yield f"{of} must be given now"
            elif default not in (None, later[variable]):
                yield f"{of}: the default was {default}, and is {later[variable]}"
        for variable in later.keys() - variables.keys():
            if later[variable] is None:
                yield f"{service}: {variable} is new, and must be given"


def broken_commands(old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[str]:
    """As sentences, each with the whole command in front."""
    for command, was in old.items():
        now = new.get(command)
        if now is None:
            yield f"{command}: it is gone"
            continue
        for option, form in was["options"].items():
            later = now["options"].get(option)
            if later is None:
                yield f"{command}: the option {option} is gone"
            elif form["takes_value"] != later["takes_value"]:
                yield f"{command}: the option {option} takes a value now, or takes none any more"
        for option, form in now["options"].items():
            if form["required"] and not was["options"].get(option, {}).get("required", False):
                yield f"{command}: the option {option} must be given now"
        yield from _arguments(command, was["arguments"], now["arguments"])


def _arguments(command: str, was: list[Any], now: list[Any]) -> Iterator[str]:
    for number, argument in enumerate(was, start=1):
        if number > len(now):
            yield f"{command}: the argument {argument['name']} is gone"
        elif argument["several"] and not now[number - 1]["several"]:
            yield f"{command}: the argument {argument['name']} is one alone now"
    for number, argument in enumerate(now):
        is_new = number >= len(was) or not was[number]["required"]
        if argument["required"] and is_new:
            yield f"{command}: the argument {argument['name']} must be given now"
