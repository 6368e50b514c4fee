"""The bodies of the API's requests and answers."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any

from pydantic import BaseModel, Field, StringConstraints

from orchestrator.api.waits import WaitsFor
from orchestrator.definition.steps import Kind
from orchestrator.machine.instance import Status, Wait
from orchestrator.store.status_counts import COUNTED_UP_TO
from outbox.chassis.http.input_types import NO_NUL, AnyId
from outbox.safe_text import MAX_REASON_LENGTH
from outbox.transports.addresses.standing import State

MAX_ACTOR = 200
MAX_NAME = 100

_Reason = Annotated[
    str, StringConstraints(min_length=1, max_length=MAX_REASON_LENGTH, pattern=NO_NUL)
]
_Actor = Annotated[str, StringConstraints(min_length=1, max_length=MAX_ACTOR, pattern=NO_NUL)]
_Name = Annotated[str, StringConstraints(min_length=1, max_length=MAX_NAME, pattern=NO_NUL)]


class DirectionOut(StrEnum):
    """The direction of a run, or the one that it ended in. It turns at most once."""

    FORWARD = "FORWARD"
    BACKWARD = "BACKWARD"


class StepStatusOut(StrEnum):
    """The status of a step. WAITING is one that was sent or is being undone, and whose answer comes
    later."""

    PENDING = "PENDING"
    SENT = "SENT"
    WAITING = "WAITING"
    IN_DOUBT = "IN_DOUBT"
    DONE = "DONE"
    REFUSED = "REFUSED"
    UNDOING = "UNDOING"
    UNDONE = "UNDONE"
    SKIPPED = "SKIPPED"
    STUCK = "STUCK"


class Summary(BaseModel):
    """A run in a list."""

    id: str
    name: str = Field(description="The definition's name")
    version: int = Field(description="The version of the definition that it is pinned to")
    status: Status
    paused: bool = Field(description="Whether it sends nothing until it is resumed")
    key: str = Field(description="The entity that it is about")
    created_at: datetime = Field(description="When it began; of a SCHEDULED one, was asked for")
    updated_at: datetime
    ended_at: datetime | None
    begin_at: datetime | None = Field(
        description="When it is to begin, or was to where it ended before; null once it has begun"
    )
    parked: str | None = Field(description="Why this orchestrator cannot work on it, if it cannot")
    waits_for: WaitsFor | None = Field(
        description="What it waits for: what is most in its way, where it has several steps under "
        "way; null where none is. A list says null too where a run is too large to be looked at"
    )
    step: str | None = Field(description="The step that this is about, by name")
    reason: str | None = Field(
        description="Why it is parked; or else why that step is stuck or waits, where more is "
        "known than the word: the last error, or what the participant waits for"
    )


class StatusCount(BaseModel):
    """How many runs have a status."""

    status: Status
    runs: int = Field(description=f"As counted, at most {COUNTED_UP_TO:,}")
    has_more: bool = Field(description="Whether there are more than were counted")


class Counts(BaseModel):
    """How many runs have each status, in the order of the statuses."""

    items: list[StatusCount]


class SilenceOut(BaseModel):
    """A participant that gives no answer, as the node that runs the saga has found it."""

    since: datetime
    deliveries: int = Field(description="How many in a row had no answer, of any saga")
    reason: str = Field(description="What became of the last one")


class PendingOut(BaseModel):
    """An answer that comes later, as the participant has told it last."""

    since: datetime = Field(description="When the participant began")
    note: str = Field(description="What or whom it waits for, in the participant's words")
    expected_at: datetime | None = Field(
        description="When the participant expected its answer, if it said so; it only informs"
    )
    is_late: bool = Field(description="Whether that time has passed")
    attempt: int | None = Field(
        description="Which attempt of a call to the outside it is; null where there is no call"
    )
    holder: str | None = Field(description="The process that makes the call")
    until: datetime | None = Field(
        description="When the call is over; if no result is there then, it is made again"
    )


class AwaitedOut(BaseModel):
    """A command whose answer is awaited."""

    id: str
    type: str
    wait: Wait = Field(description="What it waits for")
    sendings: int = Field(description="How often it was sent")
    deadline: datetime | None = Field(description="When a definite answer is overdue")
    tries: int = Field(
        description="How often it was tried in vain: deliveries that failed, or answers like "
        "`locked`; deliveries without any answer do not count"
    )
    error: str | None = Field(description="What the last of these led to: the answer in one line")
    next_at: datetime | None = Field(description="When the next try is due, if one is")
    silence: SilenceOut | None = Field(
        description="Where the participant gives no answer at all: since when, and why"
    )
    pending: PendingOut | None = Field(
        description="Where its last answer says that the answer comes later: since when, and whom "
        "or what it waits for"
    )


class StepOut(BaseModel):
    """The status of one step. The fields from the definition are null where that is not
    registered."""

    name: str
    kind: Kind | None
    status: StepStatusOut
    attempts: int = Field(description="How many different commands there were for it, both ways")
    reason: str | None = Field(description="Why it was refused or is stuck")
    participant: str | None
    after: list[str] = Field(description="The steps that it waits for")
    action: str | None = Field(description="The type of the command that does it")
    compensation: str | None = Field(description="The type of the command that undoes it")
    awaited: AwaitedOut | None
    waits_for: WaitsFor | None = Field(description="What it waits for, if it does")


class CauseOut(BaseModel):
    """Why a saga turned back, or was ended by a person."""

    code: str = Field(description="The participant's own where it refused, or a word of the engine")
    reason: str


class StrayEffectOut(BaseModel):
    """An effect that no run accounts for: an action of the step reported success when nothing
    could undo it any more. A person must look."""

    step: str
    command_id: str = Field(description="The action's id, by which its participant knows it")
    at: datetime = Field(description="When that was told")


class ArchivedOut(BaseModel):
    """Where a run is archived that was removed from the database."""

    at: datetime
    place: str = Field(description="The archive: a folder, or a bucket")
    file: str = Field(description="The file within it")


class HistoryRemovedOut(BaseModel):
    """That the history of a run was removed before the run, by its age."""

    at: datetime
    place: str | None = Field(
        description="The archive that has it: a folder, or a bucket; null where it was removed "
        "for good"
    )
    file: str | None = Field(description="The file within it, without its ending")


class SagaOut(Summary):
    """A run."""

    direction: DirectionOut | None = Field(
        description="Which way it goes, or went until it ended; null where what is stored of it "
        "cannot be read"
    )
    originator: str | None = Field(description="The service that is told of its end")
    trace_id: str = Field(description="What log lines and messages about it have in common")
    state: dict[str, Any]
    cause: CauseOut | None = Field(
        description="Why it turned back, or was ended by a person, if so"
    )
    not_undone: list[str] = Field(
        description="The steps whose effect a person left in place, or took care of by hand"
    )
    stray_effects: list[StrayEffectOut] = Field(
        description="What took effect when nothing could undo it any more, oldest first; it may "
        "come after the end"
    )
    allowed: list[str] = Field(description="What a person may do to it now")
    archived: ArchivedOut | None = Field(
        description="Where it is archived, if it was removed from the database: then nothing "
        "happens to it any more, and no list shows it"
    )
    history_removed: HistoryRemovedOut | None = Field(
        description="Since when its history is no longer there, if retention removed it before "
        "the saga; a line that came later is there"
    )
    steps: list[StepOut]


class EntryOut(BaseModel):
    """One line of a run's history."""

    number: int
    at: datetime
    happening: str
    detail: str
    step: str | None
    command_id: str | None
    actor: str | None = Field(
        description="The operator, where one stepped in: `token NAME` with the shown token, "
        "behind it in brackets the name that its holder gave; without a token the name that the "
        "caller gave"
    )


class HistoryPage(BaseModel):
    """A part of a history, oldest first."""

    items: list[EntryOut]
    next_cursor: str | None = Field(
        description="Hand it back as ?after= for the lines after these; null on the last page"
    )
    removed: HistoryRemovedOut | None = Field(
        description="Since when the first lines are no longer there, if retention removed them "
        "before the saga; the others keep their numbers"
    )


class Intervention(BaseModel):
    """An operator's signal, with its reason."""

    reason: _Reason
    actor: _Actor | None = Field(
        default=None,
        description="Who asks. The history shows it behind the name of the token; without a token "
        "it stands alone, and is `api` where it is left out",
    )


class StepIntervention(Intervention):
    """An operator's signal for one step."""

    step: _Name


class SkipIntervention(StepIntervention):
    """An operator's answer to one step in the participant's place."""

    result: Any = Field(
        default=None, description="What the step's command would have answered, for `on_reply`"
    )


class DefinitionInList(BaseModel):
    """One version of a definition."""

    name: str
    version: int
    fingerprint: str = Field(description="Identifies its shape")
    latest: bool = Field(description="Whether a start takes this version")


class DefinitionList(BaseModel):
    """All definitions that this orchestrator runs."""

    items: list[DefinitionInList]


class StepDefinition(BaseModel):
    """One step of a definition."""

    name: str
    kind: Kind
    after: list[str]
    participant: str
    action: str
    compensation: str | None
    deadline: float = Field(description="Seconds that an answer may take")


class DefinitionOut(BaseModel):
    """A definition."""

    name: str
    version: int
    fingerprint: str
    one_active: bool = Field(description="Whether one key has one active run at most")
    participants: list[str]
    input: dict[str, Any] = Field(description="The JSON schema of a run's input and state")
    steps: list[StepDefinition]


class AddressOut(BaseModel):
    """One address of a participant."""

    address: str
    state: State
    priority: int = Field(description="Those with a lower one are used first")
    weight: int = Field(description="Its share among those of its priority")
    requests: int = Field(description="Requests of this node since it knows the address")
    failures: int = Field(description="Failures in a row")
    reason: str = Field(description="The last failure in a row; empty without one")
    retry_in: float = Field(description="Seconds until it may be probed")


class ParticipantOut(BaseModel):
    """A service that this node sends to."""

    name: str
    source: str = Field(description="Where its addresses come from, as the setting says it")
    database: str | None = Field(description="The id of its database, where it has told it")
    trouble: str | None = Field(description="What is wrong with finding its addresses")
    addresses: list[AddressOut]


class ParticipantList(BaseModel):
    """All services that this node sends to over a network, by name."""

    items: list[ParticipantOut]


class DeadLetterOut(BaseModel):
    """A message that was given up for one destination."""

    id: str
    destination: str
    type: str
    key: str
    payload: str
    saga: str | None = Field(description="The saga whose command it is; retry its step instead")
    reason: str
    attempts: int
    occurred_at: datetime
    died_at: datetime


class Redriving(BaseModel):
    """The selection of dead letters to send again."""

    ids: list[AnyId] = Field(min_length=1, max_length=1000)
    destination: _Name | None = Field(
        default=None, description="Only to this one, where an id died for several"
    )
    as_new: bool = Field(
        default=False,
        description="Under new ids, and due now: a receiver that answers too-old then takes them. "
        "It takes them for new messages, so what took effect before takes effect again",
    )


class Redriven(BaseModel):
    """The number of messages that were sent on their way again."""

    redriven: int
    new_ids: dict[str, str] = Field(
        default_factory=dict, description="Where they were sent as new: the new ids by the old ones"
    )
