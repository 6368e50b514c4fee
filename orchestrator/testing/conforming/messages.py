"""The messages of a trial, as the CloudEvents that are sent, and their names in a report. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

import orjson

from outbox.wire.attributes import written
from outbox.wire.envelope import JSON, SPEC_VERSION

SOURCE = "orchestrator"
"""The name under which the trials send."""


@dataclass(frozen=True, slots=True)
class Sent:
    """A message that is sent, with the name by which a report calls it."""

    name: str
    event: Mapping[str, Any]

    @property
    def id(self) -> str:
        """Its id."""
        return str(self.event["id"])

    @property
    def account(self) -> str:
        """The account that it is about."""
        return str(self.event["partitionkey"])

    def but(self, name: str, **attributes: Any) -> Sent:
        """The same with these attributes in place of its own; None takes one away. `name` says
        what is different."""
        event = {**self.event, **attributes}
        event = {key: value for key, value in event.items() if value is not None}
        return replace(self, name=f"{self.name} {name}", event=event)

    def with_data(self, name: str, **fields: Any) -> Sent:
        """The same with these fields of its data in place of its own; None takes one away."""
        data = {**self.event["data"], **fields}
        return self.but(name, data={key: it for key, it in data.items() if it is not None})


class Author:
    """The author of the messages of one trial, which count from 1 in a report."""

    def __init__(self, new_id: Callable[[], str], now: Callable[[], datetime]) -> None:
        self.new_id = new_id
        self._now = now
        self.saga = new_id()
        """The run that all commands belong to, unless they say another one."""
        self._number = 0

    def account(self) -> str:
        """An account that nothing was sent to."""
        return f"trial-{self.new_id()}"

    def command(self, kind: str, account: str, name: str | None = None, **data: Any) -> Sent:
        """The trial command `conform.KIND.v1`."""
        self._number += 1
        moment = written(self._now())
        event = {
            "specversion": SPEC_VERSION,
            "id": self.new_id(),
            "source": SOURCE,
            "type": f"conform.{kind}.v1",
            "time": moment,
            "partitionkey": account,
            "correlationid": self.saga,
            "due": moment,
            "runnumber": self.saga,
            "datacontenttype": JSON,
            "data": {"account": account, **data},
        }
        return Sent(name or f"{kind} {self._number}", event)

    def add(self, account: str, amount: int = 1) -> Sent:
        """An entry of that amount."""
        return self.command("add", account, amount=amount)

    def undo(self, *actions: Sent) -> Sent:
        """The undo of these actions, which are of one account."""
        undone = " and ".join(it.name for it in actions)
        sent = self.command("remove", actions[0].account, f"undo of {undone}")
        return Sent(sent.name, {**sent.event, "undoes": " ".join(it.id for it in actions)})

    def void(self, *actions: Sent) -> Sent:
        """The command that these are to run no more."""
        named = " and ".join(it.name for it in actions)
        sent = self.command("void", actions[0].account, f"void of {named}")
        data = {"ids": [it.id for it in actions], "run_and_step": actions[0].account}
        return Sent(sent.name, {**sent.event, "type": "orchestrator.void.v1", "data": data})

    def at(self, moment: datetime) -> str:
        """That time, as an attribute has it."""
        return written(moment)

    def now(self) -> datetime:
        """The time of this machine."""
        return self._now()


def batch(messages: Sequence[Sent]) -> bytes:
    """The body of a request with these messages."""
    return orjson.dumps([it.event for it in messages])
