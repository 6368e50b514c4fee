"""What a client asks, and when it asks again."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, TypeVar
from urllib.parse import quote

import httpx
import orjson

from orchestrator.errors import InvalidInput, UnknownRun
from outbox.ids import is_id
from outbox.messages import SagaRef
from outbox.transports.addresses.address import Address
from outbox.wire.attributes import written
from outbox.wire.codec import encode_value

S = TypeVar("S")

PATIENCE = 10.0
"""Seconds for one answer."""
NO_ANSWER = frozenset({502, 503, 504})
"""Statuses that say nothing of what became of the request."""
TRIES = 4
"""How often a request is sent that gets no answer, where sending it twice changes nothing."""
_PRINTABLE = re.compile("[!-~]([ -~]*[!-~])?")
_FIRST_PAUSE, _LONGEST_PAUSE = 0.05, 1.0


@dataclass(frozen=True)
class Request:
    """What is asked, and how often at most; once where a second time could be another request."""

    method: str
    path: str
    body: bytes | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    tries: int = TRIES

    def made_by(self, client: httpx.Client | httpx.AsyncClient) -> httpx.Request:
        """The request of that HTTP client."""
        typed = {} if self.body is None else {"content-type": "application/json"}
        return client.build_request(
            self.method, self.path, content=self.body, headers={**typed, **self.headers}
        )

    def is_repeated_after(self, answer: httpx.Response, number: int) -> bool:
        """Whether the `number`th answer says to ask again: it is busy, or a proxy got none."""
        return answer.status_code in NO_ANSWER and number < self.tries


class Arrival:
    """The arrival of a run that is waited for: the message that starts it may still be on its way,
    for as long as its caller waits, or PATIENCE where `timeout` is None."""

    def __init__(self, id: str, timeout: float | None) -> None:
        self._until = PATIENCE if timeout is None else timeout
        self._may_come = is_id(id)
        self.missing: UnknownRun | None = None
        """The last answer, where there is no such run yet."""

    def seen(self) -> None:
        """The run is there."""
        self._may_come, self.missing = False, None

    def missed(self, error: UnknownRun, waited: float) -> None:
        """There is no such run after so many seconds. Raises that error where none can come."""
        if not self._may_come or waited >= self._until:
            raise error
        self.missing = error


def start(saga: SagaRef[S], input: S, key: str, begin_at: datetime | None) -> Request:
    """A start; one key begins one run. Raises InvalidInput."""
    _check_header("the idempotency key", key)
    later = "" if begin_at is None else f"?begin_at={quote(_written(begin_at))}"
    return Request(
        "POST",
        f"/sagas/{quote(saga.name, safe='')}{later}",
        orjson.dumps(encode_value(input)),
        {"idempotency-key": key},
    )


def look(id: str) -> Request:
    """How a run stands."""
    return Request("GET", f"/sagas/{_path(id)}")


def cancel(id: str, reason: str) -> Request:
    """Turn a run back."""
    # A second one would be refused where the first has worked.
    path = f"/sagas/{_path(id)}/cancel"
    return Request("POST", path, orjson.dumps({"reason": reason}), tries=1)


def history(id: str, after: str) -> Request:
    """The page of a run's history behind that line."""
    return Request("GET", f"/sagas/{_path(id)}/history?after={after}")


def _written(begin_at: datetime) -> str:
    try:
        return written(begin_at)
    except ValueError as error:
        raise InvalidInput(
            f"begin_at is no moment: {error}", next_step="pass an aware datetime"
        ) from None


def _path(id: str) -> str:
    if not id.strip("."):
        raise InvalidInput(f"{id!r} is no id of a run", next_step="take the id that the start gave")
    return quote(id, safe="")


def _check_header(what: str, value: str) -> None:
    if not value or not _PRINTABLE.fullmatch(value):
        # Its text stays out of the error: a token is a secret.
        raise InvalidInput(
            f"{what} is empty, or has characters that no header can have, such as a line break",
            next_step="give it without blanks and line breaks around it",
        )


def options(address: str, token: str | None) -> dict[str, Any]:
    """What an HTTP client is made with. Raises OutboxError where that is no address."""
    Address.parse(address)
    if token is not None:
        _check_header("the token", token)
    return {
        "base_url": address.rstrip("/"),
        "headers": {} if token is None else {"authorization": f"Bearer {token}"},
        "timeout": PATIENCE,
        # The environment's proxies are for the world outside.
        "trust_env": False,
    }


def pause_after(number: int) -> float:
    """Seconds after the `number`th look or try."""
    return min(_FIRST_PAUSE * 2.0 ** (number - 1), _LONGEST_PAUSE)
