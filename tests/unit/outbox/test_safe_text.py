"""Replies and causes in one line, each word of which is said once."""

from __future__ import annotations

import pytest

from outbox.replies import Outcome, Reply
from outbox.safe_text import joined, told


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (("locked", "saga 7"), "locked: saga 7"),
        (("locked", "locked: saga 7"), "locked: saga 7"),
        (("locked", "locked"), "locked"),
        (("failed", "failed", "failed: the press burns"), "failed: the press burns"),
        (("failed", None, ""), "failed"),
        (("lock", "locked: saga 7"), "lock: locked: saga 7"),
        ((None, "a reason"), "a reason"),
        ((), ""),
    ],
)
def test_a_word_with_which_the_rest_begins_is_left_out(
    words: tuple[str | None, ...], line: str
) -> None:
    assert joined(*words) == line


@pytest.mark.parametrize("outcome", Outcome)
def test_no_reply_is_told_with_its_outcome_twice(outcome: Outcome) -> None:
    word = outcome.value
    for code in (None, word, "a-code"):
        for reason in (None, "a reason", word, f"{word}: a reason"):
            line = told(Reply(outcome, code=code, reason=reason))
            assert line.startswith(word)
            assert f"{word}: {word}" not in line
