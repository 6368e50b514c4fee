"""Runs as rows of the table `saga`, without a database."""

from __future__ import annotations

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import orjson

from orchestrator.definition.saga import Saga
from orchestrator.machine.instance import Instance
from orchestrator.store.records import Record, document_json, state_json


def row_of(run: Instance[Any], saga: Saga[Any], *left_out: str) -> SimpleNamespace:
    """The row of the run. What is `left_out` stands nowhere in its document, as if code had written
    it that does not know the field; it must stand somewhere."""
    document = orjson.loads(document_json(Record(run)))
    for name in left_out:
        assert _leave_out(document, name), f"there is no {name}"
    return SimpleNamespace(
        id=run.id,
        name=run.saga,
        version=run.version,
        key=run.key,
        state=state_json(saga, run.state),
        document=orjson.dumps(document).decode(),
        created_at=run.created_at,
        begin_at=run.begin_at,
        fingerprint=None,
        paused=run.paused,
        revision=1,
        entries=1,
        due_at=None,
        originator=None,
        trace=None,
        start_id=None,
        number=None,
    )


def _leave_out(part: Any, name: str) -> bool:
    found = isinstance(part, dict) and part.pop(name, part) is not part
    for each in part.values() if isinstance(part, Mapping) else ():
        found = _leave_out(each, name) or found
    return found
