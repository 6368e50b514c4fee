"""Texts fitted to the columns of a terminal, of which a wide character takes two."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from rich.cells import cell_len

_WORD = re.compile(r" *[^ ]+")
_GAP = 2  # cells between two columns
_SHORTEST_PREFIX = 13  # of an id: the millisecond in which it was made


@dataclass(frozen=True)
class Column:
    """A column of a table.

    Its cells may be shortened in their middle to `least` cells; None: they are never. With
    `of_ids` they may be cut to prefixes by which each of the table's ids is still told apart.
    """

    header: str
    least: int | None = None
    of_ids: bool = False


def table(
    columns: Sequence[Column], rows: Sequence[Sequence[str]], width: int | None, ellipsis: str
) -> list[list[str]] | None:
    """The header and the rows, each cell as wide as its column; the last one is not padded.

    None where the table does not fit into the width, or could only be made to fit by texts that
    look alike.
    """
    cells = [[it.header for it in columns], *(list(row) for row in rows)]
    by_column = [list(it) for it in zip(*cells, strict=True)]
    if width is not None:
        _cut_ids(columns, by_column, width)
        if not _shorten(columns, by_column, width, ellipsis):
            return None
    widths = [max(map(cell_len, it)) for it in by_column]
    return [
        [_padded(cell, most) for cell, most in zip(row[:-1], widths, strict=False)] + [row[-1]]
        for row in zip(*by_column, strict=True)
    ]


def line_of(row: Sequence[str]) -> tuple[str, ...]:
    """The parts of the row's line, with the gaps between them."""
    return tuple(cell if number == 0 else " " * _GAP + cell for number, cell in enumerate(row))


def wrapped(text: str, width: int | None, *, indent: str = "", joint: str = "") -> list[str]:
    """The text in lines of at most that width, the second and further ones indented.

    It is broken at spaces, and a word only where a line does not hold it. `joint` ends each line
    that is not the last, such as a shell's backslash.
    """
    if width is None or cell_len(text) <= width:
        return [text]
    room = max(2, width - cell_len(joint))
    further = indent if cell_len(indent) + 2 <= room else ""
    lines, line = list[str](), ""
    for word in _WORD.findall(text):
        if cell_len(line + word) <= room:
            line += word
            continue
        if line.strip():
            lines.append(line)
            line = further + word.lstrip(" ")
        else:
            line += word
        while cell_len(line) > room:
            head = _head(line, room)
            lines.append(head)
            line = further + line[len(head) :]
    return [it + joint for it in lines] + [line]


def shortened(text: str, width: int, ellipsis: str, tail: int) -> str:
    """The text in at most that many cells: its head, the ellipsis, and its end of at most `tail`
    cells."""
    if cell_len(text) <= width:
        return text
    end = _head(text[::-1], tail)[::-1] if tail else ""
    return _head(text, width - cell_len(ellipsis) - cell_len(end)) + ellipsis + end


def _cut_ids(columns: Sequence[Column], by_column: list[list[str]], width: int) -> None:
    """Cut ids where the table is too wide with whole ones."""
    for number, column in enumerate(columns):
        if column.of_ids and _total(by_column) > width:
            header, *ids = by_column[number]
            length = _telling_length(ids)
            by_column[number] = [header, *(it[:length].rstrip("-") for it in ids)]


def _telling_length(ids: Sequence[str]) -> int:
    different = set(ids)
    longest = max(map(len, ids), default=0)
    return next(
        (
            length
            for length in range(_SHORTEST_PREFIX, longest)
            if len({it[:length].rstrip("-") for it in different}) == len(different)
        ),
        longest,
    )


def _shorten(
    columns: Sequence[Column], by_column: list[list[str]], width: int, ellipsis: str
) -> bool:
    """Shorten cells, those of the widest columns first, until the table fits. Whether it does."""
    widths = [max(map(cell_len, it)) for it in by_column]
    over = sum(widths) + _GAP * (len(widths) - 1) - width
    for _ in range(over):
        spare = [
            (widths[number], number)
            for number, it in enumerate(columns)
            if it.least is not None and widths[number] > max(it.least, cell_len(it.header))
        ]
        if not spare:
            return False
        widths[max(spare)[1]] -= 1
    for number, cells in enumerate(by_column):
        if max(map(cell_len, cells)) > widths[number]:
            told_apart = _all_shortened(cells, widths[number], ellipsis)
            if told_apart is None:
                return False
            by_column[number] = told_apart
    return True


def _all_shortened(cells: Sequence[str], width: int, ellipsis: str) -> list[str] | None:
    """The cells in that width, where they can be told apart by some head and end."""
    room = width - cell_len(ellipsis)
    for tail in sorted(range(room), key=lambda it: abs(it - room // 2)):
        found = {it: shortened(it, width, ellipsis, tail) for it in cells}
        if len(set(found.values())) == len(found):
            return [found[it] for it in cells]
    return None


def _total(by_column: Iterable[Sequence[str]]) -> int:
    return sum(max(map(cell_len, it)) + _GAP for it in by_column) - _GAP


def _padded(text: str, width: int) -> str:
    return text + " " * (width - cell_len(text))


def _head(text: str, width: int) -> str:
    """As much of the text's beginning as that many cells hold; one character at least."""
    length = 0
    while length < len(text) and cell_len(text[: length + 1]) <= width:
        length += 1
    return text[: max(1, length)]
