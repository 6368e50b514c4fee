"""The orchestrator's API for Python programs: start a saga, wait for it, look at it, cancel it.

    async with Client("http://orchestrator:8000", token=TOKEN) as client:
        run = await client.start(BOOK_TRIP, Booking("Ritz", 3))
        print((await run.wait()).status)

`SyncClient` does the same without `async`. What the API refuses is raised as the error that it is:
`ActiveAlready`, `KeyReused`, `UnknownRun` and the others of `orchestrator.errors`.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator
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


class Client:
    """Asks the orchestrator at `address`, such as `http://orchestrator:8000`, showing `token`.

    Raises OutboxError where that is no address. Every method raises Unavailable where there is no
    answer, and RequestRefused for what has no error of its own, such as a wrong token.
    """

    def __init__(
        self,
        address: str,
        *,
        token: str | None = None,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self._http = httpx.AsyncClient(**requests.options(address, token), transport=transport)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close its connections."""
        await self._http.aclose()

    async def start(
        self,
        saga: SagaRef[S],
        input: S,
        *,
        key: str | None = None,
        begin_at: datetime | None = None,
    ) -> Run:
        """Start the saga. The same `key` with the same input gives the same run, however often it
        is asked for; without one a new key is made, so that a lost answer begins no second run.
        With `begin_at` (aware) it is SCHEDULED and begins then.

        Raises ActiveAlready, InvalidInput, KeyReused, UnknownDefinition; StartInDoubt where no
        answer came, which has the key to ask again with.
        """
        known = str(uuid.uuid4()) if key is None else key
        try:
            body = await self._ask(requests.start(saga, input, known, begin_at))
        except Unavailable as error:
            raise StartInDoubt(error.problem, key=known) from error
        return Run(self, run_id(body))

    def run(self, id: str) -> Run:
        """The run of that id; nothing is asked yet."""
        return Run(self, id)

    def _before_waiting(self, run: str) -> None:
        """Raises where the end of that run cannot come while its caller waits; for a client that
        can know it."""

    async def _ask(self, request: Request) -> Any:
        for number in range(1, TRIES + 1):
            try:
                answer = await self._http.send(request.made_by(self._http))
            except httpx.RequestError as error:
                if number == request.tries:
                    raise no_answer(self._http, error) from error
            else:
                if not request.is_repeated_after(answer, number):
                    return read(request, answer)
            await asyncio.sleep(pause_after(number))
        raise AssertionError("the last try returns or raises")


@dataclass(frozen=True)
class Run:
    """One run, to be asked about."""

    client: Client
    id: str

    async def get(self) -> RunState:
        """How it stands now. Raises UnknownRun."""
        return state_of(await self.client._ask(requests.look(self.id)))

    async def wait(self, timeout: float | None = None) -> RunState:
        """Wait for its end, for at most `timeout` seconds, also while the orchestrator does not
        answer, and while it knows of no such run, whose start may be on its way. Without a timeout
        the one raises Unavailable, and the other UnknownRun after 10 s. Raises TimeoutError, and
        UnknownRun where the run was not there until then."""
        self.client._before_waiting(self.id)
        arrival = Arrival(self.id, timeout)
        try:
            async with asyncio.timeout(timeout):
                return await self._ended(timeout, arrival)
        except TimeoutError:
            raise arrival.missing or TimeoutError(f"run {self.id} has not ended") from None

    async def _ended(self, timeout: float | None, arrival: Arrival) -> RunState:
        began = asyncio.get_running_loop().time()
        number = 1
        while True:
            try:
                state = await self.get()
            except Unavailable:
                # The run goes on without an orchestrator that answers just now.
                if timeout is None:
                    raise
            except UnknownRun as error:
                arrival.missed(error, asyncio.get_running_loop().time() - began)
            else:
                arrival.seen()
                if state.has_ended:
                    return state
            await asyncio.sleep(pause_after(number))
            number += 1

    async def cancel(self, reason: str) -> RunState:
        """Turn it back, and undo what was done. Raises IllegalSignal where that is not possible any
        more, UnknownRun."""
        return state_of(await self.client._ask(requests.cancel(self.id, reason)))

    async def history(self) -> AsyncIterator[Line]:
        """What happened to it, oldest first; page by page. Raises UnknownRun."""
        after: str | None = "0"
        while after is not None:
            page = await self.client._ask(requests.history(self.id, after))
            for item in page["items"]:
                yield decode_value(Line, item)
            after = page["next_cursor"]
