"""Texts in the characters that the encoding of an output has."""

from __future__ import annotations

from typing import TextIO

from outbox.spelling import safe


def printable(value: object, output: TextIO) -> str:
    """The text of the value, safe; characters that the encoding of this output lacks are spelled
    out."""
    encoding = output.encoding or "ascii"
    return safe(value).encode(encoding, "backslashreplace").decode(encoding)


def ellipsis_of(output: TextIO) -> str:
    """The sign for what was left out, or three dots where the encoding lacks it."""
    sign = "\N{HORIZONTAL ELLIPSIS}"
    return sign if printable(sign, output) == sign else "..."
