"""Server-sent events, read line by line as WHATWG's specification says."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class Event:
    """One event. `id` is the last one that was named up to here, if any."""

    id: str | None
    name: str
    data: str


def events(lines: Iterable[str]) -> Iterator[Event]:
    """The complete events in these lines; one that is cut off at the end is not given."""
    last_id: str | None = None
    name, data = "", list[str]()
    for line in lines:
        if not line:
            if data:
                yield Event(last_id, name or "message", "\n".join(data))
            name, data = "", []
            continue
        field, _, value = line.partition(":")
        value = value.removeprefix(" ")
        match field:
            case "id" if "\0" not in value:
                last_id = value
            case "event":
                name = value
            case "data":
                data.append(value)
            case _:  # a comment, or what a later version may add
                continue
