"""One attempt of a REST call: its requests, and what their answers mean."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import orjson

from orchestrator.definition.rest import RestCall
from orchestrator.definition.templates import filled, known
from orchestrator.rest_calls import secrets
from orchestrator.rest_calls.base import Base
from orchestrator.rest_calls.http import Http
from orchestrator.rest_calls.meanings import (
    HttpAnswer,
    InDoubt,
    Meaning,
    found_by,
    is_nothing,
    meaning_of,
)


@dataclass(frozen=True, slots=True)
class Nothing:
    """A probe has found nothing."""


@dataclass(frozen=True, slots=True)
class There:
    """What was asked for is there; `reply` is what the service says of it."""

    reply: Any


class Requests:
    """The requests for one command, in one attempt. Texts that it raises have no secrets.

    Raises SecretMissing where it is made.
    """

    def __init__(self, command: RestCall[Any], base: Base, http: Http) -> None:
        self.command = command
        self.base = base
        self._http = http
        self._headers, self._secrets = secrets.headers_of(command)

    async def send(self, path: str, key: str, body: Any) -> HttpAnswer:
        """The request itself, under that idempotency key; None is no body."""
        command = self.command
        sent = None if body is None else orjson.dumps(body)
        headers = {**self._headers, command.key_header: key}
        if sent is not None:
            headers["content-type"] = "application/json"
        return await self._asked(command.method, path, headers, sent)

    def body_for(self, id: str, reply: Any) -> Any:
        """The body of a request for the action of that id, to which the service answered that.
        Raises InvalidMessage where the answer has not what it needs."""
        command = self.command
        if not command.fills:
            return command.body
        body = orjson.loads(orjson.dumps({"": command.body}))
        for fill in command.fills:
            place: Any = body
            last: str | int = ""
            for step in fill.at:
                place = place[last]
                last = int(step) if isinstance(place, list) else step
            place[last] = known(command.call, fill.name, id, reply)
        return body[""]

    async def look(self, path: str) -> HttpAnswer:
        """What the service says at that path of a request that it has accepted."""
        return await self._asked("GET", path, self._headers, None)

    async def probe(self, key: str) -> There | Nothing:
        """Whether the action of that key has its effect. The command has a probe. Raises
        InDoubt where that is not said."""
        assert self.command.probe is not None, "it has a probe"
        answer = await self.look(filled(self.command.probe, key, None))
        meaning = meaning_of(answer.status, {})
        if meaning not in (Meaning.DONE, Meaning.GONE):
            raise InDoubt(f"its probe was {self.words(answer)}")
        return Nothing() if is_nothing(answer) else There(found_by(answer))

    def words(self, answer: HttpAnswer) -> str:
        """An answer that says nothing, for people."""
        text = f"answered {answer.status}"
        if 300 <= answer.status < 400:
            return f"{text}, a redirect, which is not followed"
        # Hidden before it is cut: a part of a secret would not be found.
        said = self.hidden((answer.body or b"").decode("utf-8", "replace"))[:200]
        return f"{text}: {said}" if said else text

    def hidden(self, text: str) -> str:
        """The text without the secrets of the request."""
        return secrets.hidden(text, self._secrets)

    async def _asked(
        self, method: str, path: str, headers: dict[str, str], body: bytes | None
    ) -> HttpAnswer:
        url = self.base.url(path)
        try:
            return await self._http.send(
                method,
                url,
                headers=headers,
                body=body,
                seconds=self.command.timeout,
                hide=self.hidden,
            )
        except InDoubt as error:
            raise InDoubt(self.hidden(f"{method} {self.base.address}: {error}")) from None


def rest_of(times: Collection[datetime], now: datetime, command: RestCall[Any]) -> float:
    """Seconds until "nothing is there" counts, after requests that were over by these times."""
    return max((command.longest - (now - time).total_seconds() for time in times), default=0.0)
