"""The error that ends a history with a broken promise."""

from __future__ import annotations


class Broken(Exception):
    """A promise does not hold."""

    def __init__(self, promise: str, problem: str) -> None:
        super().__init__(f"{promise}: {problem}")
        self.promise = promise
        self.problem = problem
