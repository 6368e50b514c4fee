"""W3C traceparents as texts: `00-` trace id `-` parent id `-` flags, 55 characters.

Pure. The traceparent of a request or a message was checked when it was read.
"""

from __future__ import annotations

LENGTH = 55


def minted(id: str) -> str:
    """The traceparent of something that came with none: its trace id is the id without dashes.

    It follows from the id alone, so that every process names the same trace without telling the
    others. Flags 00: no caller asked to record it.
    """
    digits = id.replace("-", "")
    return f"00-{digits}-{digits[16:]}-00"


def trace_id(trace: str) -> str:
    """Its 32 hexadecimal digits, which everything that followed from one request shares."""
    return trace[3:35]


def span_id(trace: str) -> str:
    """Its 16 hexadecimal digits: the step of the trace that led here."""
    return trace[36:52]
