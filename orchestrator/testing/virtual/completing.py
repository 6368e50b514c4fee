"""Those who answer what is pending: other services, and persons."""

from __future__ import annotations

from orchestrator.testing.virtual.chances import Chances, Fault, Number
from orchestrator.testing.virtual.network import LATEST, Post
from orchestrator.testing.virtual.service import Handlers, Service
from orchestrator.testing.virtual.timeline import Timeline
from outbox.replies import Reply
from outbox.wire.envelope import Envelope

_PAUSE = 1.0
"""Seconds after which they try again where the service died."""


class Completer:
    """Completes each command some time after its handler began. `open` says how many are left."""

    def __init__(
        self, timeline: Timeline, chances: Chances, handlers: Handlers, post: Post
    ) -> None:
        self.open = 0
        self._timeline = timeline
        self._chances = chances
        self._handlers = handlers
        self._post = post

    def begun(self, service: Service, envelope: Envelope) -> None:
        """Take note of a command that is pending from now on."""
        times = 2 if self._chances.fault(Fault.DUPLICATE) else 1
        reply = self._handlers.decide(envelope)
        for _ in range(times):
            self.open += 1
            # Mostly soon, now and then when everything else is long over.
            after = 0.05 + 2 * LATEST * self._chances.number(Number.WHEN) ** 3
            self._at(after, service, envelope, reply)

    def _at(self, after: float, service: Service, envelope: Envelope, reply: Reply) -> None:
        async def complete() -> None:
            if self._chances.fault(Fault.SERVICE_CRASH):
                self._at(_PAUSE, service, envelope, reply)
                return
            for id, answer in await service.complete(envelope, reply):
                assert envelope.correlation is not None, "it is a command of a run"
                self._post.send(service.name, envelope.correlation, id, answer)
            self.open -= 1

        self._timeline.after(after, complete)
