"""Bars as SVG. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from html import escape

from benchmarks.report.tables import number

_WIDTH, _LEFT, _RIGHT = 720, 190, 70
_BAR, _GAP, _GROUP, _TOP = 16, 4, 34, 44
_COLOURS = ("#2563eb", "#60a5fa", "#94a3b8", "#64748b", "#d97706", "#b91c1c")


@dataclass(frozen=True)
class Bars:
    """Bars in groups; those of a group are as long as they are in relation to its longest."""

    title: str
    groups: Mapping[str, Mapping[str, float]]


def drawn(bars: Bars) -> str:
    """The SVG, which reads on a light and on a dark page."""
    lines = list(_lines(bars))
    height = _height(bars)
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" '
            f'role="img" aria-label="{escape(bars.title)}" font-family="sans-serif" '
            'font-size="12">',
            f'<rect width="{_WIDTH}" height="{height}" rx="6" fill="#ffffff"/>',
            f'<text x="16" y="26" font-size="15" fill="#111827">{escape(bars.title)}</text>',
            *lines,
            "</svg>\n",
        ]
    )


def _height(bars: Bars) -> int:
    return _TOP + sum(_GROUP + len(it) * (_BAR + _GAP) for it in bars.groups.values()) + 8


def _lines(bars: Bars) -> Iterator[str]:
    every = list(dict.fromkeys(name for group in bars.groups.values() for name in group))
    y = _TOP
    for group, values in bars.groups.items():
        yield f'<text x="16" y="{y + 20}" font-weight="bold" fill="#111827">{escape(group)}</text>'
        y += _GROUP - 4
        longest = max(values.values())
        for name, value in values.items():
            length = max(1.0, value / longest * (_WIDTH - _LEFT - _RIGHT))
            colour = _COLOURS[every.index(name) % len(_COLOURS)]
            middle = y + _BAR - 4
            yield (
                f'<text x="{_LEFT - 8}" y="{middle}" text-anchor="end" fill="#374151">'
                f"{escape(name)}</text>"
            )
            yield (
                f'<rect x="{_LEFT}" y="{y}" width="{length:.1f}" height="{_BAR}" rx="2" '
                f'fill="{colour}"/>'
            )
            yield (
                f'<text x="{_LEFT + length + 6:.1f}" y="{middle}" fill="#374151">'
                f"{number(value)}</text>"
            )
            y += _BAR + _GAP
        y += 4
