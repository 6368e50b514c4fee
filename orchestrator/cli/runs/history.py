"""The history of a run, read to its end, and line by line for people."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from orchestrator.cli.terminal.client import Api
from orchestrator.cli.terminal.times import to_the_second
from orchestrator.machine.transition import Happening

_MOST_PAGES = 100_000

Entry = Mapping[str, Any]
"""One line of a run's history."""


def history(api: Api, instance_id: str, after: str | None = None) -> Iterator[Entry]:
    """The lines behind that number, oldest first. Raises CommandError."""
    for _ in range(_MOST_PAGES):
        page = api.get(f"/sagas/{instance_id}/history", after=after, limit=200)
        yield from page["items"]
        after = page["next_cursor"]
        if after is None:
            return


class Teller:
    """The teller of one run's history, which is to hear each line in its order.

    A step's compensation is told from its action by the message's type, which the line of its
    sending says.
    """

    def __init__(self, saga: Mapping[str, Any]) -> None:
        self._compensations = {
            step["name"]: step["compensation"]
            for step in saga["steps"]
            if step["compensation"] != step["action"]
        }
        self._undos: set[str] = set()

    def line(self, entry: Entry) -> str:
        """The line for people."""
        step, command_id = entry.get("step"), entry.get("command_id")
        sent = entry["detail"] if entry["happening"] == Happening.SENT else None
        if command_id and sent and sent == self._compensations.get(step):
            self._undos.add(command_id)
        undo = "undo of " if command_id in self._undos else ""
        by = f" by {entry['actor']}" if entry.get("actor") else ""
        at = to_the_second(entry["at"])
        of = f" [{undo}{step}]" if step else ""
        detail = f": {entry['detail']}" if entry.get("detail") else ""
        return f"{at}  {entry['happening']}{of}{by}{detail}"
