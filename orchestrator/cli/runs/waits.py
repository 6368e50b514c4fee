"""What a run waits for, in lines for people."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from orchestrator.cli.terminal.output import print_line, print_paragraph
from orchestrator.cli.terminal.times import to_the_second

Told = Mapping[str, Any]


def awaits(awaited: Told | None) -> str:
    """The command whose answer a step awaits, in a cell of a table."""
    if awaited is None:
        return ""
    return f"{awaited['type']} ({awaited['wait']}, sent {_times(awaited['sendings'])})"


def print_waiting(saga: Told) -> None:
    """Print what is in the way of the run, if anything is."""
    if lines := waiting_lines(saga):
        print_line("")
        print_line("in the way:")
        for line in lines:
            print_paragraph(f"  {line}")


def waiting_lines(saga: Told) -> list[str]:
    """A line for each step in whose way something is."""
    found = [(step, _why(step)) for step in saga["steps"]]
    return [f"{step['name']}: {why}" for step, why in found if why]


def in_the_way(saga: Told) -> list[tuple[str, str, str | None]]:
    """The step, the word, and the error or note of each of these lines: what stays the same from
    one try in vain to the next."""
    return [
        (step["name"], step["waits_for"], _said(step["awaited"] or {}))
        for step in saga["steps"]
        if _why(step)
    ]


def _why(step: Told) -> str | None:
    awaited: Told = step["awaited"] or {}
    match step.get("waits_for"):  # an older orchestrator tells nothing of it
        case "operator":
            return f"a person is needed: {step['reason']}"
        case "participant":
            return _silence(step["participant"], awaited)
        case "retry":
            return f"{_deliveries(awaited['tries'])} failed{_next(awaited)}: {_failure(awaited)}"
        case "lock" | "ongoing" | "anew":
            often = _times(awaited["tries"])
            answered = f"answered {often}, the last time with {awaited['error']}"
            return f"{answered}{_next(awaited)}"
        case "pending":
            return _pending(awaited)
        case "resume":
            return "nothing is sent until the run is resumed"
        case _:
            return None


def _silence(participant: str, awaited: Told) -> str:
    silence, failed = awaited["silence"], ""
    if awaited["tries"]:
        failed = f"; {_deliveries(awaited['tries'])} had failed: {_failure(awaited)}"
    return (
        f"{participant} gives no answer since {to_the_second(silence['since'])}, "
        f"{_deliveries(silence['deliveries'])} in a row{_next(awaited)}: "
        f"{silence['reason']}{failed}"
    )


def _pending(awaited: Told) -> str:
    pending: Told = awaited["pending"]
    told = f"waits since {to_the_second(pending['since'])}"
    if pending["expected_at"]:
        told += f", expected by {to_the_second(pending['expected_at'])}"
        told += ", which has passed" if pending["is_late"] else ""
    if pending["attempt"]:
        told += f"; attempt {pending['attempt']} by {pending['holder'] or 'its participant'}"
        told += f" until {to_the_second(pending['until'])}" if pending["until"] else ""
    note = f": {pending['note']}" if pending["note"] else ""
    return f"{told}{_next(awaited).replace('the next', 'asked again')}{note}"


def _failure(awaited: Told) -> str:
    """The error of a delivery of which it was said already that it failed."""
    return str(awaited["error"]).removeprefix("failed: ")


def _said(awaited: Told) -> str | None:
    said: str | None = (awaited.get("pending") or {}).get("note") or awaited.get("error")
    return said


def _next(awaited: Told) -> str:
    return f", the next at {to_the_second(awaited['next_at'])}" if awaited["next_at"] else ""


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count} times"


def _deliveries(count: int) -> str:
    return "1 delivery" if count == 1 else f"{count} deliveries"
