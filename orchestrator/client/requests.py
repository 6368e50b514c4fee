"""What a client asks, and when it asks again."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar
from urllib.parse import quote

import httpx
import orjson

from outbox.messages import SagaRef
from outbox.transports.http.address import Address
from outbox.wire.codec import encode_value

S = TypeVar("S")

PATIENCE = 10.0
"""Seconds for one answer."""
TRIES = 4
"""How often a request is sent that gets no answer, where sending it twice changes nothing."""
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
        """Whether the `number`th answer says to ask again."""
        return answer.status_code == 503 and number < self.tries


def start(saga: SagaRef[S], input: S, key: str | None) -> Request:
    """A start; one key begins one run."""
    return Request(
        "POST",
        f"/sagas/{quote(saga.name, safe='')}",
        orjson.dumps(encode_value(input)),
        {"idempotency-key": key or str(uuid.uuid4())},
    )


def look(id: str) -> Request:
    """How a run stands."""
    return Request("GET", f"/sagas/{quote(id, safe='')}")


def cancel(id: str, reason: str) -> Request:
    """Turn a run back."""
    # A second one would be refused where the first has worked.
    path = f"/sagas/{quote(id, safe='')}/cancel"
    return Request("POST", path, orjson.dumps({"reason": reason}), tries=1)


def history(id: str, after: str) -> Request:
    """The page of a run's history behind that line."""
    return Request("GET", f"/sagas/{quote(id, safe='')}/history?after={after}")


def options(address: str, token: str | None) -> dict[str, Any]:
    """What an HTTP client is made with. Raises OutboxError where that is no address."""
    Address.parse(address)
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
