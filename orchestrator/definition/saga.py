"""A saga as a declared value: which commands, in which order, and how each is undone.

    delete_article = Saga(
        name="delete-article", version=1, state=Deletion, key=lambda it: it.article_id,
        steps=[
            compensatable("hide article", lambda it: HideArticle(it.article_id),
                          compensation=lambda it: UnhideArticle(it.article_id)),
            pivot("delete article", lambda it: DeleteArticle(it.article_id)),
            retriable("purge comments", lambda it: PurgeThread(it.article_id)),
        ],
    )

Steps run in the order of the list, unless one names the steps that it comes `after`: then they form
a graph, and independent steps run side by side. Any fault of a definition is found when it is made,
and the error names the step.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import KW_ONLY, dataclass
from functools import cached_property
from typing import Any, Generic, TypeVar

from orchestrator.definition import validation
from orchestrator.definition.probe import command_class, sample_of
from orchestrator.definition.rest import RestCall
from orchestrator.definition.steps import Kind, Step
from orchestrator.errors import InvalidInput, InvalidSaga
from outbox.errors import InvalidMessage
from outbox.messages import MAX_KEY_LENGTH, Command, MessageType, reply_type
from outbox.safe_text import described, is_storable
from outbox.wire.codec import decode_value, written_value

S = TypeVar("S")


@dataclass(frozen=True)
class Saga(Generic[S]):
    """The definition of a saga. Raises InvalidSaga, naming the step, where it cannot keep its
    promises.

    `state` is a frozen dataclass: the saga's input, and the values that `on_reply` adds. `key`
    names the entity that a run is about. With `one_active`, a second run for the same key is
    refused while one is active. A changed shape needs a new `version`.
    """

    name: str
    version: int
    state: type[S]
    key: Callable[[S], str]
    steps: Sequence[Step[S]]
    _: KW_ONLY
    one_active: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "steps", tuple(self.steps))
        validation.check(self)

    def __str__(self) -> str:
        return f"{self.name} v{self.version}"

    def step(self, name: str) -> Step[S]:
        """The step of that name. Raises KeyError."""
        return self._by_name[name]

    @cached_property
    def _by_name(self) -> dict[str, Step[S]]:
        return {step.name: step for step in self.steps}

    # The graph

    @cached_property
    def dependencies(self) -> dict[str, frozenset[str]]:
        """The steps that must have succeeded before each step starts."""
        compensatable = frozenset(it.name for it in self.steps if it.kind is Kind.COMPENSATABLE)
        before_retriable = frozenset(it.name for it in self.steps if it.kind is Kind.PIVOT)
        result: dict[str, frozenset[str]] = {}
        previous: frozenset[str] = frozenset()
        for step in self.steps:
            needs = previous if step.after is None else frozenset(step.after)
            if step.kind is Kind.PIVOT:
                needs |= compensatable
            elif step.kind is Kind.RETRIABLE:
                needs |= before_retriable or compensatable
            result[step.name] = needs
            previous = frozenset({step.name})
        return result

    @cached_property
    def followers(self) -> dict[str, frozenset[str]]:
        """The steps that come after each step, directly or through others: these must be undone
        before it."""
        result: dict[str, frozenset[str]] = {}
        for step in self.steps:
            found: set[str] = set()
            latest = {step.name}
            while latest := {
                other
                for other, needs in self.dependencies.items()
                if other not in found and not needs.isdisjoint(latest)
            }:
                found |= latest
            result[step.name] = frozenset(found)
        return result

    @cached_property
    def point_of_no_return(self) -> frozenset[str]:
        """The steps of which the first one sent makes the saga go forward only."""
        return frozenset(step.name for step in self.steps if step.kind is not Kind.COMPENSATABLE)

    # Commands and replies

    @cached_property
    def actions(self) -> dict[str, type[Command[Any]]]:
        """The class of the command that each step sends."""
        return {step.name: _made(step.name, "action", step.action) for step in self.steps}

    @cached_property
    def compensations(self) -> dict[str, type[Command[Any]]]:
        """The class of the command that undoes each compensatable step."""
        return {
            step.name: _made(step.name, "compensation", step.compensation)
            for step in self.steps
            if step.compensation is not None
        }

    def action_type(self, step: str) -> MessageType:
        """The type of the command that the step sends."""
        return self.actions[step].message_type

    @cached_property
    def participants(self) -> frozenset[str]:
        """The names of the services that this saga sends commands to."""
        return frozenset(self.action_type(step.name).owner for step in self.steps)

    @cached_property
    def message_types(self) -> dict[tuple[str, bool], MessageType]:
        """The types of its commands, by step, and whether it is the compensation's."""
        made = {(name, False): it.message_type for name, it in self.actions.items()}
        return made | {(name, True): it.message_type for name, it in self.compensations.items()}

    @cached_property
    def rest_calls(self) -> dict[tuple[str, bool], RestCall[Any]]:
        """The calls to plain HTTP services, by step, and whether it is the compensation's; each as
        it is declared: what comes from the state is not in it."""
        made = {(step.name, False): step.action for step in self.steps}
        undone = {(it.name, True): it.compensation for it in self.steps if it.compensation}
        classes = {False: self.actions, True: self.compensations}
        found: dict[tuple[str, bool], RestCall[Any]] = {}
        for (name, is_undo), make in {**made, **undone}.items():
            if issubclass(classes[is_undo][name], RestCall):
                call = sample_of(make)
                assert isinstance(call, RestCall), "it is of that class"
                found[name, is_undo] = call
        return found

    def decode_reply(self, step: str, value: Any) -> Any:
        """A reply's JSON value, as the type that the step's command promises.

        Raises InvalidMessage where it does not fit that type.
        """
        return decode_value(self._replies[step], value)

    @cached_property
    def _replies(self) -> dict[str, Any]:
        return {name: reply_type(command) for name, command in self.actions.items()}

    # State and keys

    def accept(self, state: S) -> str:
        """The key of a run with this input. Raises InvalidInput where the input cannot be stored,
        or the key is no text of 1 to 200 characters."""
        self.check_state(state)
        return self.key_of(state)

    def key_of(self, state: S) -> str:
        """The key of a run with this input, which can be stored. Raises InvalidInput where the key
        is no text of 1 to 200 characters."""
        try:
            key: object = self.key(state)
        except Exception as error:
            raise InvalidInput(
                f"the key of a run of {self} cannot be told: {described(error)}",
                next_step="correct the input, or the function given as key=",
            ) from error
        if not isinstance(key, str) or not 0 < len(key) <= MAX_KEY_LENGTH or not is_storable(key):
            raise InvalidInput(
                f"the key of this run of {self} would be {key!r:.200}",
                next_step=f"make it a text of 1 to {MAX_KEY_LENGTH} characters without NUL",
            )
        return key

    def check_state(self, state: object) -> bytes:
        """Check the state, and return it as JSON, as it is stored. Raises InvalidInput unless it is
        of the declared class, not of a subclass, and is read from the database as it is now."""
        if type(state) is not self.state:
            raise InvalidInput(
                f"{self} runs on {self.state.__name__}, and was given {type(state).__name__}",
                next_step=f"give it an instance of {self.state.__name__}",
            )
        try:
            return written_value(state, self.state)
        except InvalidMessage as error:
            raise InvalidInput(
                f"this state of {self} cannot be kept: {error.problem}",
                next_step=f"give the fields of {self.state.__name__} what they declare",
            ) from error

    @cached_property
    def fingerprint(self) -> str:
        """A digest of the shape: names, kinds, order and message types, but not the code of
        lambdas."""
        undo = self.compensations
        shape = [
            [
                step.name,
                step.kind,
                sorted(self.dependencies[step.name]),
                str(self.action_type(step.name)),
                str(undo[step.name].message_type) if step.name in undo else None,
            ]
            for step in self.steps
        ]
        return hashlib.sha256(json.dumps([self.name, self.version, shape]).encode()).hexdigest()


def _made(step: str, role: str, make: Callable[[Any], Command[Any]]) -> type[Command[Any]]:
    try:
        return command_class(make)
    except InvalidMessage as error:
        raise InvalidSaga(
            f"the {role} of step {step!r}: {error.problem}", next_step=error.next_step
        ) from error
