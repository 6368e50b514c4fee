"""Foreign text in one line of a log or a terminal, with its control codes spelled out.

A reason, a key or an error's text comes from elsewhere. With a newline in it, it would be a line of
its own that its reader takes for ours; with control codes it would move the cursor, hide what was
printed, or turn the direction of the writing around.
"""

from __future__ import annotations

import unicodedata

# Cc: control; Cf: format, among them those that turn the direction of writing around; Zl, Zp: line
# ends; Cs: what no terminal can print.
_SPELLED_OUT = {"Cc", "Cf", "Zl", "Zp", "Cs"}


def safe(value: object) -> str:
    """The text of the value in one line that a terminal only shows; empty for None.

    A safe text stays as it is, so that it may be made safe twice.
    """
    text = "" if value is None else str(value)
    if text.isprintable():
        return text
    return "".join(_spelled(it) if unicodedata.category(it) in _SPELLED_OUT else it for it in text)


def safe_lines(text: str, indent: str = "  ") -> str:
    """A text of several lines, such as a traceback: each is safe, and none begins where ours do."""
    return "\n".join(f"{indent}{safe(line)}" for line in text.split("\n"))


def _spelled(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")
