"""The calls to plain HTTP services: one attempt of an action, or of what undoes it.

An attempt returns what an `outside` call may, or raises: then it is not known what happened.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any, assert_never

from orchestrator.definition.rest import RestCall
from orchestrator.definition.templates import filled
from orchestrator.rest_calls.base import Base
from orchestrator.rest_calls.http import Http
from orchestrator.rest_calls.kept import Found, Kept
from orchestrator.rest_calls.meanings import (
    HttpAnswer,
    InDoubt,
    Meaning,
    meaning_of,
    pause_of,
    told_by,
    value_of,
)
from orchestrator.rest_calls.requests import Nothing, Requests, There, rest_of
from outbox.errors import InvalidMessage
from outbox.inbox.handlers import Context
from outbox.inbox.outside.finding_out import Certain, Unknowable, Working
from outbox.inbox.outside.rules import Promise
from outbox.replies import Done, Locked, Ongoing, Refused

Result = Done[Any] | Refused | Locked | Ongoing | Working | Unknowable | Certain


def promised(command: RestCall[Any], kept: Any) -> Promise:
    """What holds of an attempt for that command. A probe may take the time of two more requests."""
    requests = 1 if command.probe is None else 3
    return Promise(
        timeout=timedelta(seconds=requests * command.timeout),
        keyed=command.keyed,
        key_valid_for=timedelta(seconds=command.key_valid_for),
        repeatable=command.is_repeatable,
        only_reads=Kept.of(kept).polls is not None,
    )


class RestCalls:
    """Makes the calls to one participant, which is at `base`."""

    def __init__(self, base: Base, http: Http) -> None:
        self._base = base
        self._http = http

    def __repr__(self) -> str:
        """For logs and reasons, in the place of a function's name."""
        return f"the request to {self._base}"

    async def __call__(self, command: RestCall[Any], context: Context) -> Result:
        """One attempt."""
        attempt = _Attempt(command, context, Requests(command, self._base, self._http))
        return await (attempt.undo() if context.undoes else attempt.act())


class _Attempt:
    def __init__(self, command: RestCall[Any], context: Context, requests: Requests) -> None:
        self._command = command
        self._context = context
        self._requests = requests
        self._kept = Kept.of(context.before)
        times = context.times
        assert times is not None, "a call has its times"
        self._began = times.began_at
        self._doubt: datetime | None = None
        if times.is_in_doubt:
            self._doubt = times.in_doubt_since or self._kept.doubt or times.began_at

    # An action

    async def act(self) -> Result:
        """Do what the step asks for."""
        if self._kept.polls is not None:
            return await self._poll(self._kept.polls)
        is_absent = False
        if self._doubt is not None and self._command.probe and not self._command.keyed:
            match await self._requests.probe(self._context.id):
                case There(reply):
                    return Done(reply if self._command.has_value else None)
                case Nothing():
                    rest = rest_of([self._doubt], self._began, self._command)
                    if rest > 0:
                        return self._later(replace(self._kept, doubt=self._doubt), rest)
                    is_absent = True
                case other:
                    assert_never(other)
        id = self._context.id
        path, body = filled(self._command.path, id, None), self._requests.body_for(id, None)
        result = self._judge(await self._requests.send(path, id, body), path)
        if is_absent and isinstance(result, Refused):
            return Certain(result)
        return self._old_enough(result)

    async def _poll(self, path: str) -> Result:
        answer = await self._requests.look(path)
        if meaning_of(answer.status, self._command.answers) is not Meaning.GONE:
            return self._judge(answer, path)
        if self._command.probe:
            there = await self._requests.probe(self._context.id)
            if isinstance(there, There):
                return Done(there.reply if self._command.has_value else None)
        return self._forgotten(answer)

    def _judge(self, answer: HttpAnswer, path: str) -> Result:
        """What the answer to a request at that path means, for the action or the undo."""
        meaning = meaning_of(answer.status, self._command.answers)
        match meaning:
            case Meaning.DONE:
                return Done(value_of(answer) if self._command.has_value else None)
            case Meaning.WORKING:
                return self._working(answer, path)
            case Meaning.REFUSED:
                return Refused(*told_by(answer, self._requests.hidden))
            case Meaning.LOCKED:
                return Locked(by=told_by(answer, self._requests.hidden)[1])
            case Meaning.WAIT:
                return self._wait(answer)
            case Meaning.GONE | Meaning.IN_DOUBT:
                raise InDoubt(f"it was {self._requests.words(answer)}")
            case other:
                assert_never(other)

    def _wait(self, answer: HttpAnswer) -> Ongoing | Working:
        pause = pause_of(answer, self._began, self._context.attempt)
        if self._doubt is None:
            return Ongoing(pause)
        # An older doubt may be kept.
        kept = replace(self._kept, doubt=self._doubt).json()
        return Working(kept, f"the service answered {answer.status}", pause, in_doubt=True)

    def _working(self, answer: HttpAnswer, path: str) -> Working:
        pause = pause_of(answer, self._began, self._context.attempt)
        location = answer.headers.get("location")
        if location is None:
            polls = self._kept.polls
        else:
            polls = self._requests.base.path_of(location, path)
            if polls is None:
                raise InDoubt(
                    "it answered 202 with a Location that is not below "
                    f"{self._requests.base.address}, and is not asked"
                )
        note = "the service has accepted it, and works on it"
        # From now on it is in doubt what became of this request, not of an older one.
        kept = replace(self._kept, polls=polls, doubt=None)
        kept = replace(kept, keyed=self._command.keyed, answers=self._command.answers)
        return Working(kept.json(), note, pause, in_doubt=polls is None)

    def _forgotten(self, answer: HttpAnswer) -> Working:
        """What follows where the service does not know any more what it has accepted."""
        kept = replace(self._kept, polls=None, polls_for=None, doubt=None).json()
        pause = pause_of(answer, self._began, self._context.attempt)
        note = f"where the service was to tell its end, it answered {answer.status}"
        return Working(kept, note, pause, in_doubt=True)

    def _later(self, kept: Kept, seconds: float, what: str = "its probe finds nothing") -> Working:
        note = f"{what}, which counts once the last request is old enough"
        return Working(kept.json(), note, seconds, in_doubt=self._doubt is not None)

    def _old_enough(self, result: Result) -> Result:
        """The result of a repetition. Under a key it may be refused because the first request still
        runs, which is no refusal of that one."""
        if self._doubt is None or not self._command.keyed:
            return result
        if not isinstance(result, Refused | Locked):
            return result
        rest = rest_of([self._doubt], self._began, self._command)
        if rest <= 0:
            return result
        return self._later(replace(self._kept, doubt=self._doubt), rest, "a repetition was refused")

    # An undo

    async def undo(self) -> Result:
        """Undo each of the actions that has its effect."""
        if self._kept.polls is not None:
            of = str(self._kept.polls_for)
            answer = await self._requests.look(self._kept.polls)
            if meaning_of(answer.status, self._command.answers) is Meaning.GONE:
                return self._forgotten(answer)
            result = self._judge(answer, self._kept.polls)
            if not isinstance(result, Done):
                return result
            self._kept = self._kept.with_undone(of)
        for id in sorted(self._context.undoes):
            if id in self._kept.undone:
                continue
            found = self._kept.actions.get(id) or Found(is_sure=False, until=self._began)
            result = await self._undo_one(id, found)
            if not isinstance(result, Done):
                return result
            self._kept = self._kept.with_undone(id)
        return Done(None)

    async def _undo_one(self, id: str, found: Found) -> Result:
        there = There(found.reply) if found.is_sure else await self._find(id, found)
        if isinstance(there, Nothing):
            return Done(None)
        if not isinstance(there, There):
            return there
        command = self._command
        if self._doubt is not None and command.probe and not command.keyed:
            # What was known before is not what the undo in doubt has left.
            if isinstance(await self._requests.probe(id), Nothing):
                return Done(None)
            rest = rest_of([self._doubt], self._began, command)
            if rest > 0:
                return self._later(replace(self._kept, doubt=self._doubt), rest)
        try:
            path = filled(command.path, id, there.reply)
            body = self._requests.body_for(id, there.reply)
        except InvalidMessage as error:
            return Unknowable(self._requests.hidden(f"{error.problem}; {error.next_step}"))
        key = self._context.id if len(self._context.undoes) == 1 else f"{self._context.id}/{id}"
        self._kept = replace(self._kept, polls_for=id)
        answer = await self._requests.send(path, key, body)
        if meaning_of(answer.status, command.answers) is not Meaning.GONE:
            return self._old_enough(self._judge(answer, path))
        if command.probe and isinstance(await self._requests.probe(id), There):
            raise InDoubt(f"it was {self._requests.words(answer)}, and its probe still finds it")
        return Done(None)

    async def _find(self, id: str, found: Found) -> There | Nothing | Result:
        """Whether an action in doubt has its effect, or what to answer until that is known."""
        if found.polls is not None:
            answer = await self._requests.look(found.polls)
            match meaning_of(answer.status, found.answers):
                case Meaning.DONE:
                    return There(value_of(answer))
                case Meaning.REFUSED if self._command.probe is None and not found.in_doubt:
                    return Nothing()
                case Meaning.WORKING | Meaning.WAIT | Meaning.LOCKED:
                    pause = pause_of(answer, self._began, self._context.attempt)
                    note = "the service still works on what is to be undone"
                    return Working(self._kept.json(), note, pause)
                case Meaning.REFUSED | Meaning.GONE | Meaning.IN_DOUBT:
                    pass
                case other:
                    assert_never(other)
        if self._command.probe is None:
            return Unknowable(
                f"it is not known whether {id} took effect at the service, and its compensation "
                "has no probe that would tell; look there, and retry or skip the step"
            )
        there = await self._requests.probe(id)
        if isinstance(there, Nothing):
            times = [it for it in (found.until, self._doubt) if it is not None]
            rest = rest_of(times or [self._began], self._began, self._command)
            if rest > 0:
                return self._later(replace(self._kept, doubt=self._doubt), rest)
        return there
