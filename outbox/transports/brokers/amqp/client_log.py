"""What the library aiormq logs of the connections of the adapter.

Where a server is away, it writes an error for each attempt to connect, and where a connection
breaks, a traceback. The adapter raises the same as BrokerAway. Those who get that log it, the same
again and again ever less often, since a broker may be away for days. So these lines of the library
are left out. Other users of the library in the process keep theirs.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_RAISED_AS_WELL = ("error when creating transport", "Cancelling cause reader exited abnormally")
_is_ours: ContextVar[bool] = ContextVar("_is_ours", default=False)


@contextmanager
def our_connection() -> Iterator[None]:
    """A connection that is made in the block is the adapter's, with the tasks that it begins."""
    before = _is_ours.set(True)
    try:
        yield
    finally:
        _is_ours.reset(before)


def _is_news(record: logging.LogRecord) -> bool:
    return not (_is_ours.get() and str(record.msg).startswith(_RAISED_AS_WELL))


logging.getLogger("aiormq.connection").addFilter(_is_news)
