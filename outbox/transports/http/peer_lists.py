"""Lists of peers, taken apart. A command that only asks which peers there are needs no database."""

from __future__ import annotations

from outbox.transports.brokers.address import is_broker


def parts_in(text: str) -> list[str]:
    """The parts of a list of peers: each begins with a name, and has all of its addresses."""
    parts: list[str] = []
    for piece in filter(None, map(str.strip, text.split(","))):
        if parts and _goes_on(parts[-1], piece):
            parts[-1] += f",{piece}"
        else:
            parts.append(piece)
    return parts


def _goes_on(part: str, piece: str) -> bool:
    """Whether the piece belongs to the part before it: a further address, or a further server of a
    broker, maybe with its path and options."""
    name, has_name, _ = piece.partition("=")
    if "://" in name:
        return True
    return is_broker(part.partition("=")[2]) and (not has_name or any(it in name for it in ":/?@"))
