"""The course of things in a world, from one content of its databases."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from orchestrator.definition.saga import Saga
from orchestrator.engine.settings import EngineSettings
from orchestrator.machine.instance import StepStatus
from orchestrator.machine.signals import Cancel, Replied, Retry
from orchestrator.store import signal_rows
from orchestrator.store.signal_rows import StoredStart
from orchestrator.testing.virtual.chances import Chances
from orchestrator.testing.virtual.process import BEGIN, Process, ProcessClock
from orchestrator.testing.virtual.timeline import Timeline
from orchestrator.testing.worlds.orchestrator_database import Books
from orchestrator.testing.worlds.participants.answerer import Answerer
from orchestrator.testing.worlds.participants.completions import Answers
from orchestrator.testing.worlds.participants.effects import Place
from orchestrator.testing.worlds.participants.mailbox import Mailbox
from orchestrator.testing.worlds.participants.network import Road
from orchestrator.testing.worlds.participants.participant import Participant
from orchestrator.testing.worlds.participants.switchboard import Switchboard
from orchestrator.testing.worlds.run import Run, run_of
from orchestrator.testing.worlds.troubles import Troubles
from outbox.crashpoints import arm
from outbox.ids import Ids, is_id
from outbox.relay.settings import RelaySettings
from outbox.replies import Outcome, Reply
from outbox.retry import RetryPolicy
from outbox.safe_text import told
from outbox.transports.base import Answered, Delivery, Transport
from outbox.wire.codec import encode_value
from outbox.wire.envelope import Envelope

_WEEK = 7 * 24 * 3600.0
_MOST_EVENTS = 200_000
_SETTINGS = EngineSettings(
    relay=RelaySettings(
        lease=240.0,
        margin=5.0,
        delivery_timeout=2.0,
        poll=80.0,
        sweep=100.0,
        park_after=5.0,
        retry=RetryPolicy(first=0.3, ceiling=10.0, attempts=6),
    )
)


class NotAtRest(AssertionError):
    """A run neither ended nor stood still in a week of virtual time."""


class Course:
    """The orchestrator's process and all that happens around it, with these troubles."""

    def __init__(
        self,
        saga: Saga[Any],
        timeline: Timeline,
        books: Books,
        participants: Mapping[str, Participant],
        answers: Answers,
        originator: str,
    ) -> None:
        chances = Chances(0)
        self.troubles = Troubles()
        self._saga = saga
        self._timeline = timeline
        self._books = books
        self._participants = participants
        self._originator = originator
        self._ids = Ids(ProcessClock(timeline), chances.entropy)
        self._is_stirred = False
        self._failure = ""
        self._untaken: tuple[str, str] | None = None  # an event that failed last, and its failure
        self._mailbox = Mailbox(timeline, self.troubles, self._tell)
        self._answerer = Answerer(
            timeline, self.troubles, saga, answers, self._mailbox, self._cancel
        )
        self._switchboard = Switchboard(timeline, self.troubles, self._cancel, self._look)
        for participant in participants.values():
            participant.begin(self.troubles, self._switchboard)
        self._roads = [
            Road(
                timeline,
                partial(self._receive, it),
                self.troubles,
                _SETTINGS.relay.delivery_timeout,
                self._cancel,
            )
            for it in participants.values()
        ]
        ways: dict[str, Transport] = dict(zip(participants, self._roads, strict=True))
        ways.setdefault(originator, _Outsider())
        self._process = Process(
            "orchestrator",
            timeline,
            chances,
            books,
            books.registry,
            lambda: ways,
            _SETTINGS,
            self._trace,
        )
        timeline.at(0.0, self._process.start)

    async def run(self, state: Any, id: str | None = None) -> Run:
        """Begin a run, under that id where one is given, and let it come to rest. Raises ValueError
        where that is no UUIDv7."""
        self._saga.accept(state)
        if id is not None and not is_id(id):
            raise ValueError(f"id= is {id!r}: give a UUIDv7, as service.new_id() makes it")
        start = id or self._ids()
        asked = StoredStart(self._saga.name, encode_value(state), self._originator)
        await self._books.tell(start, *signal_rows.dump_start(asked))
        return await self.go_on(start)

    async def repair(self, run: Run) -> Run:
        """Mend the world, have an operator retry the stuck steps, and let the run go on."""
        self.troubles.clear()
        for name, status in run.steps.items():
            if status is StepStatus.STUCK:
                await self._tell(run.id, Retry(name, "a person", "mended"))
        return await self.go_on(run.id)

    async def complete(self, run: Run, step: str, answer: object) -> Run:
        """Complete the pending command of that step, and let the run go on."""
        if step not in run.pending:
            pending = ", ".join(map(repr, run.pending)) or "none"
            raise ValueError(f"step {step!r} was not pending in this run; pending: {pending}")
        participant = self._participants[self._saga.action_type(step).owner]
        while not await participant.complete(run.pending[step], answer):
            pass
        return await self.go_on(run.id)

    async def go_on(self, start: str, seconds: float = 0.0) -> Run:
        """Let the run that begins by `start` go on for so many virtual seconds, and come to rest
        then. Raises NotReached where what was to go wrong did not."""
        troubles = self.troubles
        before = arm(None)
        arm(troubles.trap(before))
        try:
            await self._look()
            self._wake()
            await self._until_rest(start, self._timeline.now + seconds)
            for road in self._roads:
                await road.arrive_again()
            await self._switchboard.finish()
            await self._answerer.finish()
            await self._mailbox.arrive_again()
            await self._until_rest(start, self._timeline.now)
        finally:
            arm(before)
            await self._switchboard.close()
        troubles.check()
        return self._found(start)

    async def _receive(
        self, participant: Participant, envelopes: Sequence[Envelope]
    ) -> list[Reply] | None:
        """What a participant answers, and what follows there at once."""
        replies = await self._answerer.receive(participant, envelopes)
        for envelope, reply in zip(envelopes, replies or (), strict=False):
            if envelope.reply_to is None:
                refusal = f"{participant.name} does not take {envelope.type}: {told(reply)}"
                self._untaken = None if reply.outcome.is_final else (envelope.id, refusal)
            place = Place.of(envelope)
            if place.is_undo and reply.outcome.is_final:
                await self._switchboard.undone(place.step)
        self._mailbox.collect(participant)
        return replies

    async def _look(self) -> None:
        """Take note of what changed at the participants."""
        for participant in self._participants.values():
            await self._answerer.look(participant)
            self._mailbox.collect(participant)

    async def _until_rest(self, start: str, earliest: float) -> None:
        steps = self._saga.steps
        patience = _WEEK + 2 * sum(it.deadline.total_seconds() for it in steps)
        self._timeline.at(earliest, self._stir)
        for _ in range(_MOST_EVENTS):
            if not await self._timeline.next(earliest + patience) or self._has_given_up():
                break
            if self._is_stirred and self._timeline.now >= earliest:
                self._is_stirred = False
                saga_id = self._books.run_of(start)
                if saga_id is not None and self._books.is_at_rest(saga_id, self._is_pending):
                    return
        run = self._found(start)
        untaken = self._untaken[1] if self._untaken is not None else ""
        raise NotAtRest(
            f"the run is {run.status} and does not {'rest' if run.is_ended else 'end'}: "
            f"{run.problem or untaken or self._failure or 'it goes on and on'}\n"
            + "\n".join(run.history)
        )

    def _has_given_up(self) -> bool:
        """Whether the orchestrator gave up an event of the run, such as that of its end."""
        return self._untaken is not None and self._books.has_buried(self._untaken[0])

    async def _stir(self) -> None:
        self._is_stirred = True

    def _is_pending(self, id: str) -> bool:
        """Whether a command waits for the test to complete it."""
        if self._answerer.completes(id):
            return False
        return any(id in it.pending() for it in self._participants.values())

    def _found(self, start: str) -> Run:
        saga_id = self._books.run_of(start)
        if saga_id is None:
            raise NotAtRest("the orchestrator never took the run in")
        instance, parked = self._books.instance(saga_id)
        return run_of(instance, parked, self._books.history(saga_id), BEGIN)

    async def _tell(self, saga_id: str, signal: Cancel | Retry | Replied) -> None:
        await self._books.tell(saga_id, *signal_rows.dump(signal))
        self._wake()

    async def _cancel(self, saga_id: str) -> None:
        await self._tell(saga_id, Cancel("a person", "changed her mind"))

    def _wake(self) -> None:
        if self._process.node is not None:
            self._process.node.committer.look()
            self._process.wake()

    def _trace(self, *what: object) -> None:
        """Note a step of the orchestrator. Only its commits bring a run to rest."""
        if what[0] in ("commits", "dies"):
            self._is_stirred = True
        if what[0] == "fails":
            self._failure = " ".join(map(str, what))


class _Outsider:
    """The service that asked for the runs where no participant did: takes the events of their
    ends."""

    async def deliver(self, envelopes: Sequence[Any]) -> Delivery:
        """As `Transport` promises."""
        return Answered([Reply(Outcome.DONE)] * len(envelopes))

    async def aclose(self) -> None:
        """Nothing is open."""
