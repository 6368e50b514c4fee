"""The client for programs without an event loop."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self, TypeVar

import httpx

from orchestrator.client import requests
from orchestrator.client.answers import Line, RunState, no_answer, read, state_of
from orchestrator.client.requests import TRIES, Request, pause_after
from outbox.messages import SagaRef
from outbox.wire.codec import decode_value

S = TypeVar("S")


class SyncClient:
    """As `Client`, without `async`."""

    def __init__(
        self,
        address: str,
        *,
        token: str | None = None,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self._http = httpx.Client(**requests.options(address, token), transport=transport)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close its connections."""
        self._http.close()

    def start(self, saga: SagaRef[S], input: S, *, key: str | None = None) -> SyncRun:
        """As `Client.start`."""
        return SyncRun(self, self._ask(requests.start(saga, input, key))["id"])

    def run(self, id: str) -> SyncRun:
        """As `Client.run`."""
        return SyncRun(self, id)

    def _ask(self, request: Request) -> Any:
        for number in range(1, TRIES + 1):
            try:
                answer = self._http.send(request.made_by(self._http))
            except httpx.TransportError as error:
                if number == request.tries:
                    raise no_answer(error) from error
            else:
                if not request.is_repeated_after(answer, number):
                    return read(request, answer)
            time.sleep(pause_after(number))
        raise AssertionError("the last try returns or raises")


@dataclass(frozen=True)
class SyncRun:
    """As `Run`, without `async`."""

    client: SyncClient
    id: str

    def get(self) -> RunState:
        """As `Run.get`."""
        return state_of(self.client._ask(requests.look(self.id)))

    def wait(self, timeout: float | None = None) -> RunState:
        """As `Run.wait`; the last look may outlast `timeout` by as long as its answer takes."""
        end = None if timeout is None else time.monotonic() + timeout
        number = 1
        while not (state := self.get()).has_ended:
            pause = pause_after(number)
            if end is not None and time.monotonic() + pause > end:
                raise TimeoutError(f"run {self.id} has not ended: it is {state.status}")
            time.sleep(pause)
            number += 1
        return state

    def cancel(self, reason: str) -> RunState:
        """As `Run.cancel`."""
        return state_of(self.client._ask(requests.cancel(self.id, reason)))

    def history(self) -> Iterator[Line]:
        """As `Run.history`."""
        after: str | None = "0"
        while after is not None:
            page = self.client._ask(requests.history(self.id, after))
            for item in page["items"]:
                yield decode_value(Line, item)
            after = page["next_cursor"]
