"""For tests, of this package and of services that use it: time, crashes, and what was sent."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import ModuleType

from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session

from outbox.adding import session_events
from outbox.crashpoints import Crash, arm, countdown
from outbox.messages import Message
from outbox.wire import codec

__all__ = ["crash_at", "crash_points", "FakeClock", "sent"]


class FakeClock:
    """A Clock that stands still until it is told to go on."""

    def __init__(self, start: datetime = datetime(2030, 1, 1, tzinfo=UTC)) -> None:
        self._now = start
        self._monotonic = 0.0

    def now(self) -> datetime:
        return self._now

    def monotonic(self) -> float:
        return self._monotonic

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        if seconds < 0:
            raise ValueError(f"time does not go back by {seconds} s; use jump() for a wrong clock")
        self._monotonic += seconds
        self.jump(seconds)

    def jump(self, seconds: float) -> None:
        """Set the wall clock forward, or back if negative, while no time passes."""
        self._now += timedelta(seconds=seconds)


@contextmanager
def crash_at(name: str, hit: int = 1) -> Iterator[None]:
    """Die at the crash point `name`, the `hit`-th time that it is reached within the block.

        with crash_at("relay: after deliver, before settle"):
            await relay.run_once()

    The point raises `Crash`, which ends the block; what it had open is left to be cleaned up as far
    as `finally` and context managers do that. Raises AssertionError where the block ends without
    having got there, so that a test cannot pass by missing its point.
    """
    reached = False

    def die() -> None:
        nonlocal reached
        reached = True
        raise Crash(name)

    arm(countdown(name, hit, die))
    try:
        yield
    except Crash:
        pass
    except BaseExceptionGroup as group:
        # A task group wraps the error that ended one of its tasks.
        if group.split(Crash)[1] is not None:
            raise
    finally:
        arm(None)
    assert reached, f"the crash point {name!r} was not reached {hit} times within the block"


def crash_points(*packages: ModuleType) -> frozenset[str]:
    """The names of all crash points in the source of these packages.

    Raises ValueError where one is named by anything but a plain text, since it could not be found.
    """
    return frozenset(
        name
        for package in packages
        for folder in package.__path__
        for path in sorted(Path(folder).rglob("*.py"))
        for name in _crash_points_in(path)
    )


def _crash_points_in(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text("utf-8"), str(path))):
        match node:
            case ast.Call(func=ast.Name("crashpoint") | ast.Attribute(attr="crashpoint")):
                match node.args:
                    case [ast.Constant(value=str(name))]:
                        yield name
                    case _:
                        raise ValueError(
                            f"{path}:{node.lineno}: the name of a crash point must be a plain text"
                        )
            case _:
                pass


def sent(session: Session | AsyncSession) -> Sequence[Message]:
    """The messages that were added in the session's present transaction, in their order, as their
    receivers will read them. What a savepoint's rollback took back is left out."""
    inner = session.sync_session if isinstance(session, AsyncSession) else session
    staging = session_events.staging_of(inner)
    if staging is None:
        return []
    return [codec.decode(each.message_class, each.data) for each in staging.messages]
