"""What took effect for a step, in letters: A its action; P an action whose answer is to come; R one
that was refused after that; C its compensation, and D one outside, which finds there what is left
to be done."""

from __future__ import annotations

IN_FORCE = frozenset({"A", "P"})
"""What is not undone."""
TAKEN_BACK = "R"
RIGHT = frozenset({"", "A", "P", "R", "AC", "AD"})
"""All that may come of a step; anything else is a mistake."""

_TURNS = {
    ("P", "A"): "A",
    ("P", "R"): "R",
    ("P", "C"): "AC",
    ("P", "D"): "AD",
    ("R", "A"): "A",
    ("R", "P"): "P",
    ("R", "C"): "AC",
    ("R", "D"): "AD",
    ("", "D"): "",
    ("AC", "D"): "AC",
    ("AD", "C"): "AD",
    ("AD", "D"): "AD",
}


def lettered(before: str, letter: str) -> str:
    """The letters after one more."""
    return _TURNS.get((before, letter), before + letter)
