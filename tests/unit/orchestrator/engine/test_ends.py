"""What the event of a run's end tells: the run ends with anything in its state."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any, cast

import pytest

from orchestrator import Saga, retriable
from orchestrator.definition.registry import Registry
from orchestrator.engine.commits import ends
from orchestrator.engine.commits.changes import Changes
from orchestrator.machine.instance import Instance, Status
from outbox.contract import SagaEnded
from outbox.messages import Command
from outbox.wire.codec import decode, encode

ID = "01900000-0000-7000-8000-000000000000"


@dataclass(frozen=True)
class Count(Command[None], type="desk.count.v1", key="key"):
    key: str


@dataclass(frozen=True)
class Counted:
    key: str
    found: float | int | str


COUNT = Saga(
    name="count",
    version=1,
    state=Counted,
    key=lambda it: it.key,
    steps=[retriable("count", lambda it: Count(it.key))],
)


def told(state: object) -> SagaEnded:
    changes = SimpleNamespace(registry=Registry([COUNT], {"desk": ""}))
    run = Instance(
        id=ID,
        saga="count",
        version=1,
        key="k",
        state=state,
        steps={},
        created_at=datetime(2030, 1, 1, tzinfo=UTC),
        ended=Status.COMPLETED,
    )
    event = ends._event(cast(Changes, changes), ID, run)
    # It can be sent, and comes as it was.
    assert decode(SagaEnded, encode(event)) == event
    return event


@pytest.mark.parametrize(
    ("found", "state"),
    [
        (7, {"key": "k", "found": 7}),
        ("x" * 1000, {"key": "k", "found": "x" * 1000}),
        ("x" * ends.MAX_STATE_BYTES, None),
        (2**70, None),
        (float("inf"), None),
        (float("nan"), None),
        ("a\0b", None),
    ],
    ids=["small", "long", "too long", "an integer beyond 64 bits", "infinite", "no number", "NUL"],
)
def test_a_state_that_no_message_can_carry_is_left_out(
    found: float | int | str, state: Mapping[str, Any] | None
) -> None:
    event = told(Counted("k", found))
    assert (event.status, event.state) == ("COMPLETED", state)
