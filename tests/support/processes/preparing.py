"""What a service of a test does in its own process before it starts.

A child whose environment names functions in `SAGABOX_TEST_PREPARE` (module:function, with commas
between them) calls them; all else that they need to know is in its environment as well.
"""

from __future__ import annotations

import os
from importlib import import_module
from pathlib import Path
from typing import Any

VARIABLE = "SAGABOX_TEST_PREPARE"
_NOTES = "SAGABOX_TEST_NOTES"
_PAGES = "SAGABOX_TEST_PAGES"


def prepare() -> None:
    """Call what the environment names."""
    for name in filter(None, os.environ.get(VARIABLE, "").split(",")):
        module, _, function = name.partition(":")
        getattr(import_module(module), function)()


def noting_crash_points(notes: Path) -> dict[str, str]:
    """The environment of a child that writes each crash point that it reaches into this file, a
    line each time, and lives on."""
    return {VARIABLE: f"{__name__}:note_crash_points", _NOTES: str(notes)}


def note_crash_points() -> None:
    """In the child."""
    from outbox.crashpoints import arm

    file = os.open(os.environ[_NOTES], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    arm(lambda name: void(os.write(file, f"{name}\n".encode())))


def void(_: object) -> None:
    """Forget it."""


def limited_to_pages(limit: Path) -> dict[str, str]:
    """The environment of a child whose SQLite database may not grow beyond as many pages as this
    file says at that moment; 0 is no limit."""
    return {VARIABLE: f"{__name__}:limit_pages", _PAGES: str(limit)}


def limit_pages() -> None:
    """In the child."""
    from sqlalchemy import event
    from sqlalchemy.pool import Pool

    limit = Path(os.environ[_PAGES])

    @event.listens_for(Pool, "checkout")
    def checkout(connection: object, *_: object) -> None:
        pages = int(limit.read_text("utf-8")) or 0xFFFFFFFE
        cursor = connection.cursor()  # type: ignore[attr-defined]  # of the driver
        cursor.execute(f"PRAGMA max_page_count = {pages}")
        cursor.close()


def without_keys() -> dict[str, str]:
    """The environment of a child whose calls to the outside are all declared without keys."""
    return {VARIABLE: f"{__name__}:declare_no_keys"}


def declare_no_keys() -> None:
    """In the child."""
    from outbox.inbox.handlers import Handlers

    declare: Any = Handlers.outside

    def outside(self: Handlers, message_class: Any, **options: Any) -> Any:
        return declare(self, message_class, **{**options, "keyed": False})

    setattr(Handlers, "outside", outside)  # noqa: B010 - a method is replaced for this process
