"""The client for programs without an event loop."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from types import TracebackType
from typing import Any, Self, TypeVar

import httpx

from orchestrator.client import requests
from orchestrator.client.answers import Line, RunState, no_answer, read, run_id, state_of
from orchestrator.client.requests import TRIES, Arrival, Request, pause_after
from orchestrator.errors import StartInDoubt, Unavailable, UnknownRun
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

    def start(
        self,
        saga: SagaRef[S],
        input: S,
        *,
        key: str | None = None,
        begin_at: datetime | None = None,
    ) -> SyncRun:
        """As `Client.start`."""
        known = str(uuid.uuid4()) if key is None else key
        try:
            body = self._ask(requests.start(saga, input, known, begin_at))
        except Unavailable as error:
            raise StartInDoubt(error.problem, key=known) from error
        return SyncRun(self, run_id(body))

    def run(self, id: str) -> SyncRun:
        """As `Client.run`."""
        return SyncRun(self, id)

    def _ask(self, request: Request) -> Any:
        for number in range(1, TRIES + 1):
            try:
                answer = self._http.send(request.made_by(self._http))
            except httpx.RequestError as error:
                if number == request.tries:
                    raise no_answer(self._http, error) from error
            else:
                if not request.is_repeated_after(answer, number):
                    return read(request, answer)
            time.sleep(pause_after(number))  # what is busy or away says not when it is back
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
        arrival, began, number = Arrival(self.id, timeout), time.monotonic(), 1
        end = None if timeout is None else began + timeout
        while True:
            late = end is not None and time.monotonic() >= end
            try:
                state = self.get()
            except Unavailable:
                if end is None:
                    raise
            except UnknownRun as error:
                arrival.missed(error, time.monotonic() - began)
            else:
                arrival.seen()
                if state.has_ended:
                    return state
            if late:
                raise arrival.missing or TimeoutError(f"run {self.id} has not ended")
            pause = pause_after(number)
            if end is not None:
                pause = max(0.0, min(pause, end - time.monotonic()))
            time.sleep(pause)  # the API is asked again and again: it calls no client back
            number += 1

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
