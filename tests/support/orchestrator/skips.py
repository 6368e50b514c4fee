"""Runs that stand stuck where a person skips a step."""

from __future__ import annotations

from dataclasses import replace

from orchestrator.definition.steps import Kind
from orchestrator.machine.signals import Skip
from tests.support.orchestrator.story import REFUSED, Story, outcome
from tests.support.orchestrator.trips import BOOKING, ROOM, SEAT, trip

WHO = ("ann", "looked into it")
UNDONE = outcome("already-undone")
SEAT_AT_LAST = trip(ROOM, replace(SEAT, kind=Kind.RETRIABLE, compensation=None))
"""A step past the point of no return whose answer the state learns."""


def stuck_at_pivot() -> Story:
    return Story(BOOKING).answers("reserve seat", "reserve room").buried("charge")


def stuck_at_ticket() -> Story:
    story = Story(BOOKING).answers("reserve seat", "reserve room", "charge")
    return story.buried("send ticket")


def stuck_at_undo() -> Story:
    """The room's undo is stuck, and the seat waits for it."""
    story = Story(BOOKING).answers("reserve seat", "reserve room").answers("charge", reply=REFUSED)
    return story.buried("reserve room")


def skipped(story: Story, step: str) -> Story:
    return story.hears(Skip(step, *WHO))
