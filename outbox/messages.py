"""Messages: facts (`Event`) and requests (`Command`), declared as plain frozen dataclasses.

    @dataclass(frozen=True)
    class ThreadClosed:
        comments: int

    @dataclass(frozen=True)
    class CloseThread(Command[ThreadClosed], type="comments.close-thread.v1", key="article_id"):
        article_id: str

The type's first word names the service that owns it: the one that publishes the event, or that
carries out the command. Its last word is the version of its schema. Neither is a Python path, so
that classes can be moved and renamed freely.
"""

from __future__ import annotations

import functools
import re
import typing
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, TypeVar

from outbox.errors import InvalidMessage

R = TypeVar("R")

OWNER = re.compile(r"[a-z][a-z0-9-]*")
"""The form of the name of a service that owns messages."""
_TYPE = re.compile(rf"({OWNER.pattern})\.([a-z][a-z0-9-]*)\.v([1-9][0-9]*)")
# As CloudEvents has it: no control characters, and no half of a surrogate pair.
_KEY = re.compile(r"[^\x00-\x1f\x7f-\x9f\ud800-\udfff]+")
MAX_TYPE_LENGTH = 100
MAX_KEY_LENGTH = 200


@dataclass(frozen=True)
class MessageType:
    """A parsed type: `comments.close-thread.v1` is owner `comments`, name `close-thread`, 1."""

    owner: str
    name: str
    version: int

    @classmethod
    def parse(cls, text: str) -> MessageType:
        """Raises InvalidMessage where `text` is not `owner.name.vN`."""
        match = _TYPE.fullmatch(text)
        if match is None or len(text) > MAX_TYPE_LENGTH:
            raise InvalidMessage(
                f"{text!r} is not a message type",
                next_step="write it as owner.name.vN in lower case, such as "
                f"comments.close-thread.v1, in at most {MAX_TYPE_LENGTH} characters",
            )
        return cls(match[1], match[2], int(match[3]))

    def __str__(self) -> str:
        return f"{self.owner}.{self.name}.v{self.version}"


@dataclass(frozen=True)
class SagaRef(Generic[R]):
    """The name of a saga and the type of its input, for the services that start it:
    `BOOK_TRIP = SagaRef[Booking]("book-trip")` in the contract."""

    name: str


class Message:
    """The base of all messages. Use `Event` or `Command`, never this class itself."""

    message_type: ClassVar[MessageType]
    key_field: ClassVar[str]

    def __init_subclass__(cls, *, type: str | None = None, key: str | None = None) -> None:
        super().__init_subclass__()
        if type is None and key is None:
            return
        if type is None or key is None:
            raise InvalidMessage(
                f"{cls.__name__} declares only one of type= and key=",
                next_step="give both: the versioned type, and the field whose value orders the "
                "messages",
            )
        cls.message_type = MessageType.parse(type)
        cls.key_field = key

    @property
    def message_key(self) -> str:
        """The order key: messages with the same one keep their order. Raises InvalidMessage if it
        is no text."""
        key: Any = getattr(self, self.key_field, None)
        if not isinstance(key, str) or len(key) > MAX_KEY_LENGTH or not _KEY.fullmatch(key):
            raise InvalidMessage(
                f"the key {self.key_field!r} of {self.message_type} is {key!r:.100}",
                next_step=f"make it a text of 1 to {MAX_KEY_LENGTH} characters, none of them a "
                "control character",
            )
        return key


class Event(Message):
    """A fact, for any number of destinations. It gets no answer."""


class Command(Message, Generic[R]):
    """A request to one participant, which answers with a reply that carries an `R`."""


def type_of(message: Message | type[Message]) -> MessageType:
    """The declared type. Raises InvalidMessage where the class declares none."""
    declared = getattr(message, "message_type", None)
    if not isinstance(declared, MessageType):
        cls = message if isinstance(message, type) else type(message)
        raise InvalidMessage(
            f"{cls.__name__} declares no message type",
            next_step=f'declare it: class {cls.__name__}(Event, type="owner.name.v1", key="field")',
        )
    return declared


def reply_type(command: type[Command[Any]]) -> Any:
    """The `R` of a class that is declared as `Command[R]`, also by way of other generic classes;
    Any where the class leaves it open."""
    declared: Any = command
    try:
        return _resolved_reply(declared)
    except NameError:  # a name that stands further down, or that only a type checker imports
        return _reply_of(declared)


@functools.lru_cache(maxsize=4096)
def _resolved_reply(command: Any) -> Any:
    found = _reply_of(command)
    if isinstance(found, typing.TypeVar):
        return Any
    unknown = NameError()
    for cls in command.__mro__:
        holder = type("Holder", (), {"__annotations__": {"R": found}, "__module__": cls.__module__})
        try:
            return typing.get_type_hints(holder, include_extras=True)["R"]
        except NameError as error:
            unknown = error
    raise unknown


def _reply_of(declared: Any) -> Any:
    origin, given = typing.get_origin(declared) or declared, typing.get_args(declared)
    if origin is Command:
        return given[0] if given else Any
    for base in vars(origin).get("__orig_bases__", origin.__bases__):
        base_class = typing.get_origin(base) or base
        if not (isinstance(base_class, type) and issubclass(base_class, Command)):
            continue
        reply = _reply_of(base)
        known = dict(zip(getattr(origin, "__parameters__", ()), given, strict=False))
        if isinstance(reply, typing.TypeVar):
            return known.get(reply, reply)
        if left_open := getattr(reply, "__parameters__", ()):
            return reply[tuple(known.get(each, Any) for each in left_open)]
        return reply
    return Any
