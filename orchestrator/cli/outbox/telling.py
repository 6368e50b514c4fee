"""What the commands of `sagabox outbox` print: pages of lists, and what was changed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from orchestrator.cli.terminal.fitting import Column
from orchestrator.cli.terminal.output import (
    print_command,
    print_json,
    print_line,
    print_paragraph,
    print_table,
)

if TYPE_CHECKING:
    from outbox.operations.results import Changed

Item = dict[str, Any]


def as_items(found: Sequence[Any]) -> list[Item]:
    """The items of a page for programs."""
    from outbox.operations.results import as_json

    return [as_json(it) for it in found]


def print_page(
    items: Sequence[Item],
    cursor: str | None,
    is_json: bool,
    nothing: str,
    columns: Sequence[Column],
    row: Callable[[Item], Sequence[object]],
    notes: Callable[[Item], Sequence[tuple[str, object]]],
) -> None:
    """Print a page of a list, with the cells and the notes of each item; `nothing` says that it has
    none."""
    if is_json:
        print_json({"items": list(items), "next_cursor": cursor})
        return
    if not items:
        print_line(nothing)
        return
    print_table(columns, [row(it) for it in items], [notes(it) for it in items])
    if cursor:
        print_line("more: the same command with")
        print_command(f"--cursor {cursor}")


def print_changed(changed: Changed, done: str, is_json: bool) -> None:
    """Print what was changed, or would be, and what stays."""
    if is_json:
        print_json(as_items([changed])[0])
        return
    counts = (
        (changed.dead_letters, "dead letter", "dead letters"),
        (changed.held_messages, "held message", "held messages"),
        (changed.scheduled, "scheduled message", "scheduled messages"),
    )
    parts = [_counted(*it) for it in counts if it[0]] or ["nothing"]
    would = "would be " if changed.is_dry_run else ""
    print_line(f"{' and '.join(parts)} {would}{done}")
    if changed.of_sagas:
        stay = _counted(changed.of_sagas, "command of a saga stays", "commands of sagas stay")
        print_paragraph(f"{stay}: retry the steps of the runs (sagabox list --status STUCK)")
    if changed.too_old:
        one, many = "too-old letter stays", "too-old letters stay"
        stay = _counted(changed.too_old, one, many)
        print_paragraph(f"{stay}: find out whether it took effect; else redrive it with --as-new")
    for old, new in changed.new_ids.items():
        print_line(f"{old} is the new message {new}")


def _counted(count: int, one: str, many: str) -> str:
    return f"1 {one}" if count == 1 else f"{count} {many}"
