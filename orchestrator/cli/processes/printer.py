"""The printer of several speakers' lines in one terminal, each with its speaker's name."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.text import Text

from outbox.spelling import safe

_COLORS = ("cyan", "magenta", "green", "yellow")


class Printer:
    """A printer of lines, with each speaker in its own colour on a terminal.

    Control codes in a line are shown and not obeyed, since a service may log foreign text.
    """

    def __init__(self, speakers: Sequence[str], console: Console) -> None:
        self._console = console
        self._width = max(map(len, speakers))
        self._colors = dict(zip(speakers, _COLORS, strict=False))

    def __call__(self, speaker: str, line: str) -> None:
        who = (f"{speaker:{self._width}} | ", self._colors.get(speaker, ""))
        self._console.print(Text.assemble(who, safe(line)))
