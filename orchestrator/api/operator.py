"""The routes for operators' signals. Each is one line of the run's history, with actor and
reason."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from orchestrator.api.context import ApiContext
from orchestrator.api.models import Intervention, SagaOut, SkipIntervention, StepIntervention
from orchestrator.api.sagas import GONE, SagaId
from orchestrator.errors import IllegalSignal, InvalidInput
from orchestrator.machine.signals import (
    Cancel,
    OperatorSignal,
    Pause,
    Resolve,
    Resume,
    Retry,
    Skip,
    Terminate,
)
from orchestrator.retention.archive.lines import ArchivedRow
from outbox.chassis.access.middleware import key_in
from outbox.chassis.http.problems import documented
from outbox.chassis.http.strict_bodies import StrictRoute
from outbox.wire import strict_json

_TOKEN = "token"
"""The prefix of actors that were proven by a token."""
_ANSWERS = documented(GONE | {409: "It is not possible now; `allowed` lists what is"})


def router(desk: ApiContext) -> APIRouter:
    """The router of these addresses."""
    routes = APIRouter(
        prefix="/sagas/{saga}", tags=["interventions"], responses=_ANSWERS, route_class=StrictRoute
    )

    async def signal(saga: str, signal: OperatorSignal, response: Response) -> SagaOut:
        row = await desk.find(saga, response)
        if isinstance(row, ArchivedRow):
            raise IllegalSignal(
                f"the saga {row.id} ended {row.status}, and is archived: it can only be looked at",
                status=row.status,
                allowed=(),
            )
        await desk.engine.signal(row.id, signal)
        return await desk.shown(await desk.find(row.id))

    @routes.post("/cancel", status_code=202, summary="Turn back, and undo what was done")
    async def cancel(
        saga: SagaId, asked: Intervention, request: Request, response: Response
    ) -> SagaOut:
        return await signal(saga, Cancel(_actor(asked, request), asked.reason), response)

    @routes.post(
        "/terminate",
        status_code=202,
        summary="End at once, WITHOUT undoing anything",
        description="What is in effect stays in effect, and is listed in `not_undone`.",
    )
    async def terminate(
        saga: SagaId, asked: Intervention, request: Request, response: Response
    ) -> SagaOut:
        return await signal(saga, Terminate(_actor(asked, request), asked.reason), response)

    @routes.post(
        "/resolve", status_code=202, summary="End a stuck saga that was taken care of by hand"
    )
    async def resolve(
        saga: SagaId, asked: Intervention, request: Request, response: Response
    ) -> SagaOut:
        return await signal(saga, Resolve(_actor(asked, request), asked.reason), response)

    @routes.post("/pause", status_code=202, summary="Send nothing until it is resumed")
    async def pause(
        saga: SagaId, asked: Intervention, request: Request, response: Response
    ) -> SagaOut:
        return await signal(saga, Pause(_actor(asked, request), asked.reason), response)

    @routes.post("/resume", status_code=202, summary="Go on after a pause")
    async def resume(
        saga: SagaId, asked: Intervention, request: Request, response: Response
    ) -> SagaOut:
        return await signal(saga, Resume(_actor(asked, request), asked.reason), response)

    @routes.post("/retry", status_code=202, summary="Try a stuck step again")
    async def retry(
        saga: SagaId, asked: StepIntervention, request: Request, response: Response
    ) -> SagaOut:
        return await signal(saga, Retry(asked.step, _actor(asked, request), asked.reason), response)

    @routes.post(
        "/skip",
        status_code=202,
        summary="Take a stuck step for done, or leave it as it is",
        description="Forward, the step counts as done, with `result` as its answer; backward, it "
        "is listed in `not_undone`.",
    )
    async def skip(
        saga: SagaId, asked: SkipIntervention, request: Request, response: Response
    ) -> SagaOut:
        result = _storable(asked.result)
        return await signal(
            saga, Skip(asked.step, _actor(asked, request), asked.reason, result), response
        )

    return routes


def _actor(asked: Intervention, request: Request) -> str:
    """The actor for the history: the caller's token, and the name that the caller gives.

    Raises InvalidInput where a caller without a token names one.
    """
    key = key_in(request.scope)
    if key is not None:
        said = "" if asked.actor in (None, key.name) else f" ({asked.actor})"
        return f"{_TOKEN} {key.name}{said}"
    if asked.actor is not None and asked.actor.casefold().split(maxsplit=1)[:1] == [_TOKEN]:
        raise InvalidInput(
            f"the actor begins with {_TOKEN!r}, and the request shows no token",
            next_step="show the token, or name a person",
        )
    return asked.actor or "api"


def _storable(result: object) -> object:
    """The result, checked as strictly as databases need it."""
    try:
        return strict_json.check(strict_json.dumps(result))
    except ValueError as error:
        raise InvalidInput(
            f"the result cannot be kept: {error}", next_step="send another result"
        ) from None
