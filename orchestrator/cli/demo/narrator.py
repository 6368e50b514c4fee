"""The narrator of the demo: it prints lines with the time, the present activity, and a table.

On a terminal the present moment is a line of its own that moves; elsewhere it is told in steps.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.status import Status
from rich.table import Table
from rich.text import Text

from orchestrator.cli.demo.checks import Check, Outcome
from outbox.spelling import safe

_TOLD_OF_ALL = 5  # lines for a count, where it cannot move


class Narrator:
    """Use it as a context; `began` is when it was made, and times are told from then on."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._began = time.monotonic()
        self._moment: Status | None = None
        self._counted = 0

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._moment = self._console.status("")
            self._moment.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._moment is not None:
            self._moment.stop()
            self._moment = None

    @property
    def seconds(self) -> float:
        """Since it was made."""
        return time.monotonic() - self._began

    def scene(self, title: str) -> None:
        """Begin a new scene."""
        self._counted = 0
        self._print(Text(""))
        self._print(Text(safe(title), style="bold"))
        self.now(title)

    def say(self, text: str, style: str = "") -> None:
        """Tell an event."""
        self._print(Text.assemble((f"{self.seconds:6.1f} s  ", "dim"), (safe(text), style)))

    def check(self, check: Check) -> None:
        """Tell a check."""
        mark, style = ("ok", "green") if check.held else ("BROKEN", "bold red")
        self.say(f"  {mark}: {check}", style)

    def now(self, text: str) -> None:
        """Tell the present activity, which a terminal shows until the next one."""
        if self._moment is not None:
            self._moment.update(Text(safe(text)))

    def count(self, done: int, of: int, more: str) -> None:
        """Tell how many of all are done by now."""
        text = f"{done} of {of}{more}"
        self.now(text)
        share = done * _TOLD_OF_ALL // of
        if share > self._counted and self._moment is None:
            self.say(text)
        self._counted = max(share, self._counted)

    def table(self, outcomes: Sequence[Outcome]) -> None:
        """Print the table of all outcomes."""
        table = Table("what", "result", "took", "checked how", "", header_style="bold")
        for column in (1, 2, 4):
            table.columns[column].no_wrap = True
        for it in outcomes:
            mark = Text("ok", "green") if it.held else Text("BROKEN", "bold red")
            scene, result, how = (Text(safe(text)) for text in (it.scene, it.result, it.how))
            table.add_row(scene, result, f"{it.seconds:.1f} s", how, mark)
        self._print(Text(""))
        self._console.print(table)

    def _print(self, text: Text) -> None:
        self._console.print(text, soft_wrap=True)
