"""What happened, told in the words of the saga."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from orchestrator.machine.instance import Instance, Status, StepStatus
from orchestrator.testing.exploring.model.events import Crash, Event, What
from orchestrator.testing.exploring.model.model import Model
from orchestrator.testing.exploring.model.rows import UNSTORED
from outbox.replies import Outcome

Trace = Sequence[tuple[Event, int]]
"""Events, each with the place that it leads to; -1 where the event itself breaks a promise."""

_ARRIVALS = {
    Outcome.DONE: "takes effect",
    Outcome.REFUSED: "is refused",
    Outcome.LOCKED: "finds that another operation holds the entity",
    Outcome.ONGOING: "is taken up, and its work goes on elsewhere",
    Outcome.EXPIRED: "has expired, so that it never runs",
    Outcome.NOTHING_TO_UNDO: "finds nothing to undo",
    Outcome.ALREADY_UNDONE: "comes after its undo, and has no effect",
    Outcome.UNKNOWN: "finds that what became of its call is not known",
}
_HAPPENED = {None: "", Outcome.DONE: " after it has had its effect"}
_CRASHES = {
    None: "",
    Crash.BEFORE_COMMIT: "; the orchestrator crashes before it has stored that",
    Crash.AFTER_COMMIT: "; the orchestrator stores that, and crashes before it has sent anything",
}
_REQUESTS = {
    What.CANCEL: "a person cancels the run",
    What.TERMINATE: "a person terminates the run without undoing anything",
    What.RESOLVE: "a person takes care of the rest and resolves the run",
    What.PAUSE: "a person pauses the run",
    What.RESUME: "a person resumes the run",
    What.REMOVED: "retention removes the run, and remembers its id",
    What.UNKEYED: "retention removes the idempotency key of the run",
    What.AGAIN: "the message that asked for the run comes again",
    What.SAME_KEY: "a caller asks with the idempotency key of the run again",
}


def told(model: Model, trace: Trace) -> tuple[str, ...]:
    """One sentence for each event: what happens, and what the orchestrator does about it."""
    lines = []
    before = -1
    for event, place in trace:
        lines.append(_told(model, event, before, place))
        before = place
    return tuple(lines)


def numbered(lines: Iterable[str]) -> str:
    """The sentences below each other, with their numbers."""
    return "\n".join(f"  {number}. {line}" for number, line in enumerate(lines, 1))


def _told(model: Model, event: Event, before: int, place: int) -> str:
    happened = _happened(model, event, before, place)
    if place < 0:
        return happened + _CRASHES[event.crash]
    led_to = _sent(model, event, before, place) + _turned(model, before, place)
    return happened + _CRASHES[event.crash] + led_to


def _happened(model: Model, event: Event, before: int, place: int) -> str:
    name = _name(event)
    match event.what:
        case What.STARTS:
            return "the run starts"
        case What.SCHEDULED:
            return "the run is asked for, to begin later"
        case What.BEGINS:
            return "it is time for the run to begin"
        case What.ARRIVES:
            return _arrived(model, event, before, place)
        case What.COMPLETED:
            return f"{_pending(event)} is completed: {_answer(event)}"
        case What.OVERDUE:
            return f"the time of {_pending(event)} passes{_HAPPENED[event.answer]}, and it goes on"
        case What.DIED:
            return f"the process that makes {_pending(event)} dies{_HAPPENED[event.answer]}"
        case What.ANSWERED:
            copy = ", and a copy of it stays on its way" if event.copy else ""
            message = " as a message" if event.accepted else ""
            return f"the answer to {name} arrives{message}: {_answer(event)}{copy}"
        case What.ACCEPTED:
            return f"{name} is accepted, to be answered by a message"
        case What.LOST if event.answer is not None:
            return f"the answer to {name} ({_answer(event)}) is lost"
        case What.LOST:
            return f"{_command(event)} is lost on its way"
        case What.BURIED:
            return f"{_command(event)} becomes a dead letter"
        case What.DEADLINE:
            late = ", while its answer may yet come" if _is_late(model, event, before) else ""
            return f"the deadline of {name} passes{late}"
        case What.REPEAT:
            return f"it is time to try {name} again"
        case What.CRASH:
            return "the orchestrator crashes, and comes back"
        case What.RETRY:
            return f"a person has {event.step!r} tried again"
        case What.SKIP:
            return f"a person skips {event.step!r}"
        case What.FORGOTTEN if model.place(before).kept.is_there:
            return "retention removes the run, whose id is too old to be remembered by itself"
        case What.FORGOTTEN:
            return "retention forgets the id of the run, which is old by now"
        case _:
            return _REQUESTS[event.what]


def _arrived(model: Model, event: Event, before: int, place: int) -> str:
    name = _command(event)
    copy = "; a copy of it stays on its way" if event.copy else ""
    if event.answer is None:
        return f"{name} arrives{copy}"
    is_known = place >= 0 and model.participant(before) == model.participant(place)
    if event.later and event.answer is Outcome.ONGOING:
        if is_known:
            return f"{name} arrives, and is told that its answer comes later{copy}"
        if event.call:
            again = " once more" if event.call > 1 else ""
            return f"{name} arrives, and a call to the outside is made for it{again}{copy}"
        return f"{name} arrives and begins; its answer comes later{copy}"
    if event.answer not in UNSTORED and is_known:
        return f"{name} arrives again, and is answered as before: {_answer(event)}{copy}"
    return f"{name} arrives and {_ARRIVALS[event.answer]}{copy}"


def _sent(model: Model, event: Event, before: int, place: int) -> str:
    new = Counter(model.place(place).network)
    if before >= 0:
        new -= Counter(model.place(before).network)
    names = []
    for number in sorted(new):
        message, (command, attempt) = model.message(number)
        # One that was just accepted is no new one, unless that is forgotten in a crash.
        is_sent = not message.accepted or event.crash is Crash.BEFORE_COMMIT
        if message.answer is None and is_sent:
            about = Event(
                What.ARRIVES, command.step, bool(command.undoes), attempt, void=command.is_void
            )
            names.append(_name(about))
    if not names:
        return ""
    crashed = event.crash is not None or event.what is What.CRASH
    are = "is" if len(names) == 1 else "are"
    return f"; {'at recovery ' if crashed else ''}{_listed(names)} {are} sent"


def _turned(model: Model, before: int, place: int) -> str:
    now = model.instance(place)
    past = model.instance(before) if before >= 0 else None
    words = []
    if past is None or now is past:
        return ""
    if past.direction is not now.direction:
        words.append("; the run turns back")
    for name in _newly_stuck(past, now):
        words.append(f"; {name!r} is STUCK")
    if now.status is not past.status and now.status not in (
        Status.RUNNING,
        Status.COMPENSATING,
        Status.STUCK,
    ):
        words.append(f"; the run is {now.status}")
    return "".join(words)


def _is_late(model: Model, event: Event, before: int) -> bool:
    sent = (model.message(number)[1] for number in model.place(before).network)
    about = (event.step, event.undo, event.attempt, event.void)
    return any(about == (it.step, bool(it.undoes), attempt, it.is_void) for it, attempt in sent)


def _newly_stuck(past: Instance[object], now: Instance[object]) -> list[str]:
    return [
        name
        for name, run in now.steps.items()
        if run.status is StepStatus.STUCK and past.steps[name].status is not StepStatus.STUCK
    ]


def _name(event: Event) -> str:
    role = "the undo of " if event.undo else "the question about " if event.void else ""
    again = f" (attempt {event.attempt})" if event.attempt > 1 else ""
    return f"{role}{event.step!r}{again}"


def _command(event: Event) -> str:
    return f"{_name(event)}, which was accepted," if event.accepted else _name(event)


def _pending(event: Event) -> str:
    if not event.call:
        return _name(event)
    attempt = f"call {event.call}" if event.call > 1 else "the call"
    return f"{attempt} to the outside for {_name(event)}"


def _answer(event: Event) -> str:
    if event.answer is None:
        return "nothing"
    if event.later:
        return "its answer comes later" if event.answer is Outcome.ONGOING else "refused after all"
    choice = f", with its value {event.choice + 1}" if event.choice else ""
    return f"{event.answer.value}{choice}"


def _listed(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
