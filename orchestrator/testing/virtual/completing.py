"""Those who answer what is pending: other services and persons, and the outside that is called."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from orchestrator.testing.virtual.chances import Chances, Fault, Number
from orchestrator.testing.virtual.network import LATEST, Post
from orchestrator.testing.virtual.service import LATER, TIMEOUT, Effect, Handlers, Service, Told
from orchestrator.testing.virtual.timeline import Timeline
from outbox.inbox.outside.call import Answered, AnswersLater, NoAnswer, Result
from outbox.replies import Reply
from outbox.wire.envelope import Envelope

_PAUSE = 1.0
"""Seconds after which they try again where the service died."""


class Provider:
    """What is called. It says the same to each call under one key, and does it once."""

    def __init__(
        self,
        chances: Chances,
        handlers: Handlers,
        took_effect: Callable[[Effect], Awaitable[None]],
    ) -> None:
        self._chances = chances
        self._handlers = handlers
        self._took_effect = took_effect
        self._said: dict[str, Result] = {}

    async def say(self, envelope: Envelope, *, may_wait: bool) -> Result:
        """Its answer; that it comes later only where it `may_wait`."""
        if envelope.id not in self._said:
            later = may_wait and self._chances.fault(Fault.PENDING)
            reply = LATER if later else self._handlers.decide(envelope)
            effect = Effect.of(envelope, reply)
            if effect is not None and effect.letter != "B":
                await self._took_effect(effect)
            self._said[envelope.id] = AnswersLater(reply) if later else Answered(reply)
        return self._said[envelope.id]


class Completer:
    """Completes each command some time after its handler began, and makes each call. `open` says
    how many are left."""

    def __init__(
        self,
        timeline: Timeline,
        chances: Chances,
        handlers: Handlers,
        provider: Provider,
        post: Post,
    ) -> None:
        self.open = 0
        self._timeline = timeline
        self._chances = chances
        self._handlers = handlers
        self._provider = provider
        self._post = post

    def begun(self, service: Service, envelope: Envelope, attempt: int) -> None:
        """Take note of a command that is pending from now on; that attempt of a call to the outside
        is made for it, where it is not 0."""
        if attempt:
            self._call(service, envelope, attempt)
            return
        times = 2 if self._chances.fault(Fault.DUPLICATE) else 1
        reply = self._handlers.decide(envelope)
        for _ in range(times):
            # Mostly soon, now and then when everything else is long over.
            after = 0.05 + 2 * LATEST * self._chances.number(Number.WHEN) ** 3
            self._complete(after, service, envelope, reply)

    def _complete(self, after: float, service: Service, envelope: Envelope, reply: Reply) -> None:
        async def complete() -> None:
            if self._chances.fault(Fault.SERVICE_CRASH):
                self._complete(_PAUSE, service, envelope, reply)
            else:
                self._send(service, envelope, await service.complete(envelope, reply))

        self._after(after, complete)

    # Calls

    def _call(self, service: Service, envelope: Envelope, attempt: int) -> None:
        async def called() -> None:
            result = await self._provider.say(envelope, may_wait=True)
            if not self._chances.fault(Fault.SERVICE_CRASH):
                await self._conclude(service, envelope, attempt, result)

        seconds = 0.05 + 2.0 * self._chances.number(Number.CALL) ** 3
        if self._chances.fault(Fault.HANG):
            self._hang(seconds, service, envelope, attempt)
        else:
            self._after(seconds, called)

    def _hang(self, seconds: float, service: Service, envelope: Envelope, attempt: int) -> None:
        """Let the process die before the call or after it, the call end by an error after all, or
        go on and end late."""

        async def call() -> None:
            await self._provider.say(envelope, may_wait=True)

        async def fail() -> None:
            await call()
            await self._conclude(service, envelope, attempt, NoAnswer("connection reset"))

        async def be_late() -> None:
            await self._conclude(service, envelope, attempt, NoAnswer("not done in time"))

        async def come_late() -> None:
            result = await self._provider.say(envelope, may_wait=False)
            await self._conclude(service, envelope, attempt, result)

        match self._chances.below(Number.CALL, 4):
            case 0:
                pass
            case 1:
                self._after(seconds, call)
            case 2:
                self._after(seconds, fail)
            case _:
                late = 2 * LATEST * self._chances.number(Number.CALL) ** 3
                self._after(TIMEOUT, be_late)
                self._after(TIMEOUT + late, come_late)

    async def _conclude(
        self, service: Service, envelope: Envelope, attempt: int, result: Result
    ) -> None:
        self._send(service, envelope, await service.conclude(envelope, attempt, result))

    def _send(self, service: Service, envelope: Envelope, told: Told) -> None:
        for id, answer, is_late in told:
            assert envelope.correlation is not None, "it is a command of a run"
            self._post.send(service.name, envelope.correlation, id, answer, is_sure=is_late)

    def _after(self, seconds: float, happen: Callable[[], Awaitable[None]]) -> None:
        async def happens() -> None:
            await happen()
            self.open -= 1

        self.open += 1
        self._timeline.after(seconds, happens)
