"""Foreign texts, such as an exception's or a participant's, made fit to be stored and shown."""

from __future__ import annotations

import re

from outbox.replies import Reply

MAX_REASON_LENGTH = 500
_SURROGATES = re.compile("[\ud800-\udfff]")
_UNSTORABLE = re.compile("[\0\ud800-\udfff]")


def is_storable(text: str) -> bool:
    """Whether every database takes the text: no NUL, no lone surrogates."""
    return _UNSTORABLE.search(text) is None


def is_text(text: str) -> bool:
    """Whether it can be written in UTF-8: it has no lone surrogates."""
    return text.isascii() or _SURROGATES.search(text) is None


def fit(text: str) -> str:
    """The text, cut to MAX_REASON_LENGTH, with a mark for each character that a database would
    refuse."""
    cut = text[:MAX_REASON_LENGTH]
    return cut if cut.isascii() and "\0" not in cut else _UNSTORABLE.sub("\ufffd", cut)


def told(reply: Reply) -> str:
    """A reply in one line: its outcome, its code and its reason, each said once."""
    return fit(joined(reply.outcome.value, reply.code, reply.reason))


def joined(*words: str | None) -> str:
    """The words with colons between them. One with which the rest begins already is left out."""
    text = ""
    for word in reversed(words):
        if word and text != word and not text.startswith(f"{word}:"):
            text = f"{word}: {text}" if text else word
    return text


def described(error: BaseException) -> str:
    """An exception in one line. It may come from any code, so even making its text may fail."""
    try:
        return fit(f"{type(error).__name__}: {error}")
    except Exception:
        return fit(type(error).__name__)
