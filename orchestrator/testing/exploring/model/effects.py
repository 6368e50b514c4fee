"""What took effect for a step, in letters: A its action; P an action whose answer is to come; R one
that was refused after that; C its compensation."""

from __future__ import annotations

IN_FORCE = frozenset({"A", "P"})
"""What is not undone."""
TAKEN_BACK = "R"
RIGHT = frozenset({"", "A", "P", "R", "AC"})
"""All that may come of a step; anything else is a mistake."""

_TURNS = {
    ("P", "A"): "A",
    ("P", "R"): "R",
    ("P", "C"): "AC",
    ("R", "A"): "A",
    ("R", "P"): "P",
    ("R", "C"): "AC",
}


def lettered(before: str, letter: str) -> str:
    """The letters after one more."""
    return _TURNS.get((before, letter), before + letter)
