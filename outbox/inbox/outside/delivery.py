"""A delivery that waits for calls."""

from __future__ import annotations

from outbox.replies import Reply


class Delivery:
    """One delivery, as far as it waits for calls."""

    def __init__(self) -> None:
        self.answers: dict[str, Reply] = {}
        """By the id of a command, what its call came to."""
        self.is_over = False
