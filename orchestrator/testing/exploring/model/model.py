"""One run with everything around it, and all that can happen to it next.

A command that was withdrawn stays on its way here: it may have left before, and that it may never
arrive is among what can happen anyway.

What can happen does not depend on the faults that are left, except that some of it costs one. So
each place is worked out once for all ways that lead there.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import replace
from types import ModuleType
from typing import Any, NamedTuple

from orchestrator.definition.saga import Saga
from orchestrator.machine.instance import Instance, Status
from orchestrator.machine.signals import ACCEPTED, Replied, Signal, TimerFired, TimerKind
from orchestrator.testing.exploring.model import promises
from orchestrator.testing.exploring.model.events import Crash, Event, What
from orchestrator.testing.exploring.model.faults import FREE, Price
from orchestrator.testing.exploring.model.idle import Idle, buried, replied
from orchestrator.testing.exploring.model.orchestrating import RUN_ID, Orchestrating
from orchestrator.testing.exploring.model.participant import Participant
from orchestrator.testing.exploring.model.participating import Participating, Receipt
from orchestrator.testing.exploring.model.persons import Request, requests
from orchestrator.testing.exploring.model.promises import Broken
from orchestrator.testing.exploring.model.retaining import Retaining, Rule, check_removed
from orchestrator.testing.exploring.model.values import Edge, Message, Numbers, Place, Sent, about
from orchestrator.testing.exploring.model.view import Invariant

_AT_PARTICIPANTS = frozenset(
    {FREE, "duplicates", "refusals", "locks", "ongoing", "expiries", "pendings", "calls"}
)
"""The groups in which commands arrive."""
_OF_THE_PENDING = frozenset({FREE, "refusals", "hangs", "pendings"})
"""The groups in which something happens to what is pending."""
_OF_RETENTION = frozenset({"removals", "starts"})
"""The groups in which something is removed, and a start comes again."""
_SAID_BY_THE_WAY = frozenset({What.ANSWERED, What.ACCEPTED})


class Choice(NamedTuple):
    """Something that may come to the orchestrator: what it is, and what is on its way apart from
    it. `name` stands for the signal."""

    event: Event
    name: Hashable
    signal: Signal
    network: tuple[int, ...]
    price: Price = ()


class Model:
    """Knows places by number, and works out what leads from one to another.

    `replies` has, for a step, the JSON values that its action may be answered with.
    """

    def __init__(
        self,
        saga: Saga[Any],
        machine: ModuleType,
        replies: Mapping[str, Sequence[Any]],
        invariants: Sequence[Invariant],
        without: Rule | None = None,
    ) -> None:
        self.saga = saga
        self._replies = replies
        self._invariants = invariants
        self._messages: Numbers[Message] = Numbers()
        self._orchestrating = Orchestrating(saga, machine, self._messages)
        self._participating = Participating(saga, self._messages, self._orchestrating.sent, replies)
        self._idle = Idle(self._messages, self._orchestrating, self._participating, replies)
        self._retaining = Retaining(RUN_ID, without)
        self._places: Numbers[Place] = Numbers()
        self._edges: dict[tuple[int, str], list[Edge]] = {}
        self._events: dict[tuple[What, int], Event] = {}
        self._asked_for: dict[int, list[Request]] = {}
        self._latest: tuple[Place | None, list[Choice]] = (None, [])
        self._broken: dict[tuple[int, int, bool, frozenset[str]], Broken | None] = {}

    # Places

    def first(self, state: Any, participant: Participant, *, later: bool) -> int:
        """The place in which the run has just begun, or was asked for to begin later. Raises
        InvalidInput and Broken."""
        engine, sent = self._orchestrating.start(state, later=later)
        there = self._participating.participants.of(participant)
        return self._place(Place(engine, there, sent))

    def place(self, number: int) -> Place:
        """The place of that number."""
        return self._places.values[number]

    def instance(self, number: int) -> Instance[Any]:
        """The run as it is stored there."""
        return self._orchestrating.instances[self.place(number).engine]

    def status(self, number: int) -> Status:
        """How the run stands there."""
        return self.instance(number).status

    def broken(self, number: int) -> Broken | None:
        """The promise that does not hold there, if any."""
        place = self.place(number)
        told = self._told_late(place)
        key = (*place[:2], place.kept.is_there, told)
        if key not in self._broken:
            self._broken[key] = None
            instance, participant = self.instance(number), self.participant(number)
            try:
                check_removed(place.kept, ended=instance.ended is not None)
                promises.check_effects(self.saga, instance, participant, told)
                promises.check_invariants(self._invariants, instance, participant)
            except Broken as broken:
                self._broken[key] = broken
        return self._broken[key]

    def _told_late(self, place: Place) -> frozenset[str]:
        """The ids of the actions of whose late success the orchestrator is being told, or would
        be if the run were there."""
        late = self._participating.participants.values[place.participant].late()
        if not late or not place.kept.is_there:
            return late
        messages = map(self._messages.values.__getitem__, place.network)
        return late & {it.command_id for it in messages if it.answer is not None}

    def participant(self, number: int) -> Participant:
        """The participants as they are there."""
        return self._participating.participants.values[self.place(number).participant]

    def message(self, number: int) -> tuple[Message, Sent]:
        """What is on its way under that number."""
        message = self._messages.values[number]
        return message, self._orchestrating.sent[message.command_id]

    # What leads from one to another

    def edges(self, number: int, group: str) -> list[Edge]:
        """All that can happen there of that group; each is in one group alone."""
        key = (number, group)
        if key not in self._edges:
            self._edges[key] = list(self._worked_out(self.place(number), group))
        return self._edges[key]

    def _worked_out(self, place: Place, group: str) -> Iterator[Edge]:
        if group in _AT_PARTICIPANTS:
            yield from self._receptions(place, group)
        if group in _OF_THE_PENDING:
            yield from self._endings(place, group)
        if group == "losses":
            yield from self._losses(place)
        if group in _OF_RETENTION:
            yield from self._retained(place, group)
        if group == "crashes":
            yield from self._crashes(place)
        price: Price = () if group == FREE else (group,)
        for choice in self._choices(place):
            if choice.price == price:
                yield self._taken_in(place, choice)
            if group == "duplicates" and choice.event.what is What.ANSWERED:
                event = replace(choice.event, copy=True)
                copied = choice._replace(event=event, network=place.network, price=price)
                yield self._taken_in(place, copied)

    def _receptions(self, place: Place, group: str) -> Iterator[Edge]:
        """Commands that arrive."""
        for number in dict.fromkeys(place.network):
            message, _ = self.message(number)
            if message.answer is not None:
                continue
            instance = self._orchestrating.instances[place.engine]
            receipts = self._participating.received(
                place.participant, number, place.engine, instance
            )
            for receipt in receipts:
                price = receipt.price
                if (price or (FREE,)) == (group,):
                    rest = _without(place.network, number)
                    yield self._arrival(place, number, receipt, rest, price)
                if group == "duplicates":
                    price = ("duplicates", *price)
                    yield self._arrival(place, number, receipt, place.network, price)

    def _arrival(
        self, place: Place, number: int, receipt: Receipt, rest: tuple[int, ...], price: Price
    ) -> Edge:
        answer = self._messages.values[receipt.answer].answer
        assert answer is not None
        event = replace(
            self._about(What.ARRIVES, number),
            answer=answer.outcome,
            choice=answer.choice,
            later=answer.later,
            call=answer.call,
            copy=len(rest) == len(place.network),
        )
        network = (*rest, receipt.answer, *receipt.told)
        after = self._place(place._replace(participant=receipt.participant, network=network))
        return Edge(event, after, price, receipt.broken)

    def _endings(self, place: Place, group: str) -> Iterator[Edge]:
        instance = self._orchestrating.instances[place.engine]
        for it in self._participating.endings(place.participant, place.engine, instance):
            if (it.price or (FREE,)) == (group,):
                event = self._about(it.what, self._messages.of(Message(it.command_id, it.answer)))
                network = (*place.network, *it.told)
                after = self._place(place._replace(participant=it.participant, network=network))
                yield Edge(replace(event, call=it.call), after, it.price, it.broken)

    def _losses(self, place: Place) -> Iterator[Edge]:
        late = self._participating.participants.values[place.participant].late()
        for number in dict.fromkeys(place.network):
            message = self._messages.values[number]
            if message.accepted and message.answer is not None and message.command_id in late:
                # No one asks for it again; but it is a message of an outbox, and comes to arrive.
                continue
            after = self._place(place._replace(network=_without(place.network, number)))
            yield Edge(self._about(What.LOST, number), after, ("losses",))

    def _retained(self, place: Place, group: str) -> Iterator[Edge]:
        ended = self._orchestrating.instances[place.engine].ended is not None
        for what, kept, price in self._retaining.removals(place.kept, ended=ended):
            if price == (group,):
                yield Edge(Event(what), self._place(place._replace(kept=kept)), price)
        for what, broken, price in self._retaining.starts(place.kept):
            if price == (group,):
                yield Edge(Event(what), self._places.of(place), price, broken)

    # What comes to the orchestrator

    def _choices(self, place: Place) -> list[Choice]:
        if self._latest[0] != place:
            self._latest = place, list(self._found(place))
        return self._latest[1]

    def _found(self, place: Place) -> Iterator[Choice]:
        for number in dict.fromkeys(place.network):
            message, sent = self.message(number)
            rest = _without(place.network, number)
            if message.answer is not None:
                event = self._about(What.ANSWERED, number)
                yield Choice(event, number, replied(message, sent, self._replies), rest)
                continue
            event = self._about(What.BURIED, number)
            yield Choice(event, ("buried", number), buried(message, sent), rest, ("burials",))
            if not message.accepted:
                event = self._about(What.ACCEPTED, number)
                taken = self._messages.of(message._replace(accepted=True))
                signal = Replied(message.command_id, ACCEPTED)
                yield Choice(event, (What.ACCEPTED, number), signal, (*rest, taken), ("accepted",))
        if not place.kept.is_there:
            return
        on_the_way = {self._messages.values[it].command_id for it in place.network}
        for kind, id in self._orchestrating.timers(place.engine):
            if kind is TimerKind.BEGIN:
                yield Choice(Event(What.BEGINS), (kind, id), TimerFired(kind, id), place.network)
                continue
            is_late = kind is TimerKind.DEADLINE and id in on_the_way
            what = What.DEADLINE if kind is TimerKind.DEADLINE else What.REPEAT
            event = self._about(what, self._messages.of(Message(id, None)))
            price: Price = ("late",) if is_late else ()
            yield Choice(event, (kind, id), TimerFired(kind, id), place.network, price)
        for event, request, price in self._requests(place.engine):
            yield Choice(event, (event.what, event.step), request, place.network, price)

    def _requests(self, engine: int) -> list[Request]:
        if engine not in self._asked_for:
            instance = self._orchestrating.instances[engine]
            self._asked_for[engine] = requests(self.saga, instance, self._replies)
        return self._asked_for[engine]

    def _taken_in(self, place: Place, choice: Choice) -> Edge:
        if not place.kept.is_there:
            # It comes too late, and leads to nothing.
            after = self._place(place._replace(network=choice.network))
            made = Broken("P2", "an answer has made the run anew that was removed")
            broken = made if self._retaining.makes_runs else None
            return Edge(choice.event, after, choice.price, broken)
        try:
            engine, sent = self._orchestrating.advance(place.engine, choice.name, choice.signal)
        except Broken as broken:
            return Edge(choice.event, -1, choice.price, broken)
        # One that is still in the outbox is not added to it again.
        added = tuple(number for number in sent if number not in choice.network)
        network = choice.network + added
        after = self._place(place._replace(engine=engine, network=network))
        return Edge(choice.event, after, choice.price)

    # Crashes

    def _crashes(self, place: Place) -> Iterator[Edge]:
        """A crash before the commit of what comes again, as an answer that is a message does,
        leaves what a crash between two commits leaves. Only what the way said, which was in the
        orchestrator's memory alone, is gone: then the command is not settled, and sent once more.
        """
        if not place.kept.is_there:
            return
        again = self._orchestrating.outstanding(place.engine)
        if again:
            after = self._place(place._replace(network=place.network + again))
            yield Edge(Event(What.CRASH), after, ("crashes",))
        for choice in self._choices(place):
            if choice.event.what in _SAID_BY_THE_WAY and not choice.event.accepted:
                yield self._forgotten(place, choice, again)
            crashed = self._crashed_after(place, choice)
            if crashed is not None:
                yield crashed

    def _forgotten(self, place: Place, choice: Choice, again: tuple[int, ...]) -> Edge:
        assert isinstance(choice.signal, Replied)
        unsettled = self._messages.of(Message(choice.signal.command_id, None))
        sent = dict.fromkeys((unsettled, *again))
        after = self._place(place._replace(network=(*choice.network, *sent)))
        event = replace(choice.event, crash=Crash.BEFORE_COMMIT)
        return Edge(event, after, ("crashes", *choice.price))

    def _crashed_after(self, place: Place, choice: Choice) -> Edge | None:
        try:
            engine, sent = self._orchestrating.advance(place.engine, choice.name, choice.signal)
        except Broken:
            return None  # found without a crash too
        added = tuple(number for number in sent if number not in choice.network)
        again = tuple(it for it in self._orchestrating.outstanding(engine) if it not in sent)
        if not again:
            # What was not handed over is sent at recovery, and nothing else: as without a crash,
            # only that a crash was spent.
            return None
        network = choice.network + added + again
        event = replace(choice.event, crash=Crash.AFTER_COMMIT)
        after = self._place(place._replace(engine=engine, network=network))
        return Edge(event, after, ("crashes", *choice.price))

    # Tidying

    def _place(self, place: Place) -> int:
        """The number of the place, without the order of the network, which has none, and without
        messages that neither now nor ever change anything (see `Idle`). Both leave out no
        behaviour: what is dropped could only have arrived and changed nothing."""
        engine, participant, network, kept = place
        left = [
            it
            for it in network
            if self._retaining.makes_runs or not self._idle.is_idle(engine, participant, it)
        ]
        return self._places.of(Place(engine, participant, tuple(sorted(left)), kept))

    def _about(self, what: What, number: int) -> Event:
        key = (what, number)
        if key not in self._events:
            self._events[key] = about(what, *self.message(number))
        return self._events[key]


def _without(network: tuple[int, ...], number: int) -> tuple[int, ...]:
    index = network.index(number)
    return network[:index] + network[index + 1 :]
