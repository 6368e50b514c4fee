"""Envelopes for tests: one to vary by hand, and strategies for all of them."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import orjson
from hypothesis import strategies as st

from outbox.ids import compose
from outbox.wire.envelope import Envelope

AN_ID = compose(1_900_000_000_000, 1)
ANOTHER_ID = compose(1_900_000_000_000, 2)
A_TIME = datetime(2030, 1, 31, 12, 0, 0, 123456, UTC)
A_TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"

_PLAIN = Envelope(
    id=AN_ID,
    source="articles",
    type="articles.article-published.v1",
    key="article-7",
    time=A_TIME,
    data=b'{"title":"Tides"}',
)


def an_envelope(**changes: Any) -> Envelope:
    """A plain event, with these fields in place of its own."""
    return replace(_PLAIN, **changes)


def a_full_envelope(**changes: Any) -> Envelope:
    """An undo that uses every field, with these fields in place of its own."""
    full = an_envelope(
        type="comments.reopen-thread.v1",
        correlation=compose(1_900_000_000_001, 3),
        causation=compose(1_900_000_000_002, 4),
        trace=A_TRACE,
        reply_to="orchestrator",
        undoes=(AN_ID, ANOTHER_ID),
        expires=datetime(2030, 2, 1, tzinfo=UTC),
        expires_in=90_000,
    )
    return replace(full, **changes)


def ids() -> st.SearchStrategy[str]:
    """UUIDv7s."""
    return st.builds(
        compose, st.integers(min_value=0, max_value=2**48 - 1), st.integers(0, 2**74 - 1)
    )


def texts(longest: int) -> st.SearchStrategy[str]:
    """What an attribute may hold: no control characters and no lone surrogates."""
    characters = st.characters(exclude_categories=("Cc", "Cs"))
    return st.text(characters, min_size=1, max_size=longest)


def times() -> st.SearchStrategy[datetime]:
    """Aware times in UTC, to the microsecond."""
    return st.datetimes(timezones=st.just(UTC))


def json_values() -> st.SearchStrategy[Any]:
    """Every value that strict JSON can carry."""
    words = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"))
    scalars = (
        st.none()
        | st.booleans()
        | st.integers(min_value=-(2**63), max_value=2**63 - 1)
        | st.floats(allow_nan=False, allow_infinity=False)
        | words
    )
    return st.recursive(
        scalars,
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(words, inner, max_size=4),
        max_leaves=12,
    )


def json_texts() -> st.SearchStrategy[bytes]:
    """JSON in the ways in which people write it: compact, spaced, escaped or not."""
    compact = json_values().map(orjson.dumps)
    spaced = json_values().map(lambda value: json.dumps(value, indent=1).encode())
    return compact | spaced


def traces() -> st.SearchStrategy[str]:
    """W3C traceparents."""
    return st.from_regex(r"00-[0-9a-f]{31}[1-9a-f]-[0-9a-f]{15}[1-9a-f]-0[01]", fullmatch=True)


def envelopes(data: st.SearchStrategy[bytes] | None = None) -> st.SearchStrategy[Envelope]:
    """Every envelope that can travel; `data` is compact JSON unless another is given."""
    return st.builds(
        Envelope,
        id=ids(),
        source=texts(100),
        type=texts(100),
        key=texts(200),
        time=times(),
        data=json_values().map(orjson.dumps) if data is None else data,
        correlation=st.none() | ids(),
        causation=st.none() | ids(),
        trace=st.none() | traces(),
        reply_to=st.none() | texts(100),
        undoes=st.lists(ids(), max_size=3).map(tuple),
        expires=st.none() | times(),
        expires_in=st.none() | st.integers(-(10**15) + 1, 10**15 - 1),
    )
