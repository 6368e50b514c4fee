"""Lines of several speakers in one terminal, each with who said it in front."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.text import Text

from outbox.spelling import safe

_COLORS = ("cyan", "magenta", "green", "yellow")


class Printer:
    """Prints lines, with the speaker in its own colour; what is no terminal gets no colours.

    The lines are shown, and not obeyed: a service writes down what others sent to it.
    """

    def __init__(self, speakers: Sequence[str], console: Console) -> None:
        self._console = console
        self._width = max(map(len, speakers))
        self._colors = dict(zip(speakers, _COLORS, strict=False))

    def __call__(self, speaker: str, line: str) -> None:
        who = (f"{speaker:{self._width}} | ", self._colors.get(speaker, ""))
        self._console.print(Text.assemble(who, safe(line)))
