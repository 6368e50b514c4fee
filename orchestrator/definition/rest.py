"""Steps whose participant is a plain HTTP service, which knows nothing of this library.

    compensatable(
        "charge the card",
        lambda it: rest(
            "payments", "POST /charges", body={"cents": it.cents}, reply=Charged, keyed=True,
            probe="GET /charges/by-key/{key}",
        ),
        compensation=lambda it: rest(
            "payments", "DELETE /charges/{reply.id}", probe="GET /charges/by-key/{key}"
        ),
        on_reply=Order.note_charge,
    )

The command that `rest` makes is the whole request and the rules about its answer. The orchestrator
itself is its receiver: it makes the call, and answers in the service's place.
"""

from __future__ import annotations

import functools
import hashlib
import re
import types
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Generic, Literal, TypeVar, get_args, overload

from orchestrator.definition.probe import is_stand_in
from orchestrator.definition.templates import KEY, REPLY, expanded, parted, places_in
from outbox.errors import InvalidMessage
from outbox.messages import MAX_TYPE_LENGTH, OWNER, Command

R = TypeVar("R")

Answer = Literal["done", "refused", "wait", "in-doubt"]
"""What an answer of the service means: it did it; it did not, and nothing changed; nothing happened
yet, and the same request comes again; it is not known."""

TIMEOUT = timedelta(seconds=10)
GRACE = timedelta(seconds=60)
KEY_VALID_FOR = timedelta(hours=24)
KEY_HEADER = "Idempotency-Key"
MOST_SECONDS = 3600.0

_TOKEN = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_OURS = frozenset({"host", "content-length", "content-type", "transfer-encoding", "connection"})
_REPEATABLE = frozenset({"GET", "PUT", "DELETE"})


@dataclass(frozen=True)
class Secret:
    """A secret by reference: the environment variable, or the file, that has it where the
    orchestrator runs. It is read at each call, and never stored or logged. `form` says how it
    stands in the header, with {} in its place."""

    env: str | None = None
    file: str | None = None
    form: str = "{}"

    def __post_init__(self) -> None:
        if (self.env is None) is (self.file is None) or self.form.count("{}") != 1:
            raise InvalidMessage(
                f"a secret has one of env= and file=, and a form with one {{}}: {self}",
                next_step='write it as Secret(env="PAYMENTS_TOKEN", form="Bearer {}")',
            )


@dataclass(frozen=True)
class Later:
    """A value within a body that is known only when the request is sent: Later("reply.id") is
    what {reply.id} is in an address, and Later("key") what {key} is."""

    name: str


@dataclass(frozen=True)
class Fill:
    """The place of such a value within a body: the members and numbers that lead to it."""

    at: list[str]
    name: str

    def is_of(self, what: str) -> bool:
        """Whether the value is taken from that."""
        return self.name.partition(".")[0] == what


@dataclass(frozen=True)
class RestCall(Command[R], Generic[R]):
    """A request to a plain HTTP service, as its step has made it. Make it with `rest`.

    `call` is its declaration, `path` its address below that of the participant. Seconds are
    seconds. `answers` has what differs from the usual meaning of a status.
    """

    call: str
    path: str
    body: Any = None
    fills: list[Fill] = field(default_factory=list)
    headers: dict[str, str] = field(default_factory=dict)
    secrets: dict[str, Secret] = field(default_factory=dict)
    keyed: bool = False
    key_header: str = KEY_HEADER
    key_valid_for: float = KEY_VALID_FOR.total_seconds()
    timeout: float = TIMEOUT.total_seconds()
    answers: dict[str, str] = field(default_factory=dict)
    probe: str | None = None
    grace: float = GRACE.total_seconds()
    has_value: bool = True

    @property
    def method(self) -> str:
        """The method of the request."""
        return self.call.partition(" ")[0]

    @property
    def needs_reply(self) -> bool:
        """Whether it takes something from what the service answered to the action."""
        return REPLY in places_in(self.path) or any(it.is_of(REPLY) for it in self.fills)

    @property
    def longest(self) -> float:
        """Seconds until a request has arrived, or never does."""
        return self.timeout + self.grace

    @property
    def is_repeatable(self) -> bool:
        """Whether the request may be sent again at any time: its method says so, or the probe
        tells before whether it took effect, as it does where there is no key."""
        return self.method in _REPEATABLE or (self.probe is not None and not self.keyed)


@overload
def rest(
    participant: str,
    call: str,
    *,
    values: Mapping[str, str | int] | None = None,
    body: object = None,
    reply: type[R],
    keyed: bool | None = None,
    key_header: str = KEY_HEADER,
    key_valid_for: timedelta = KEY_VALID_FOR,
    headers: Mapping[str, str | Secret] | None = None,
    answers: Mapping[int, Answer] | None = None,
    probe: str | None = None,
    timeout: timedelta = TIMEOUT,
    grace: timedelta = GRACE,
) -> RestCall[R]: ...
@overload
def rest(
    participant: str,
    call: str,
    *,
    values: Mapping[str, str | int] | None = None,
    body: object = None,
    reply: None = None,
    keyed: bool | None = None,
    key_header: str = KEY_HEADER,
    key_valid_for: timedelta = KEY_VALID_FOR,
    headers: Mapping[str, str | Secret] | None = None,
    answers: Mapping[int, Answer] | None = None,
    probe: str | None = None,
    timeout: timedelta = TIMEOUT,
    grace: timedelta = GRACE,
) -> RestCall[None]: ...
def rest(
    participant: str,
    call: str,
    *,
    values: Mapping[str, str | int] | None = None,
    body: object = None,
    reply: type[Any] | None = None,
    keyed: bool | None = None,
    key_header: str = KEY_HEADER,
    key_valid_for: timedelta = KEY_VALID_FOR,
    headers: Mapping[str, str | Secret] | None = None,
    answers: Mapping[int, Answer] | None = None,
    probe: str | None = None,
    timeout: timedelta = TIMEOUT,
    grace: timedelta = GRACE,
) -> RestCall[Any]:
    """The command of a step whose participant is a plain HTTP service, registered as
    `payments=rest+https://pay.internal/v1`.

    `call` is the method and a template of the address below that one; `values` are quoted into it.
    {key} is the id of the action, its idempotency key; in a compensation {reply.member} is what the
    service answered to the action. `body` is sent as JSON, in which `Later` has their place.
    `reply` is the type of the JSON that is answered, None where that does not matter.

    `keyed` says whether the service honours `key_header` for `key_valid_for`: a repetition under
    the same key has no second effect and gets the answer of the first. For POST and PATCH it must
    be said. `probe` is a GET that finds what the action did, by {key} or `values`: 404, 410, 204 or
    an empty list say that it is not there. `answers` says where a status means something else than
    usual. A request ends after `timeout`; a probe that finds nothing counts only `grace` later.

    Raises InvalidMessage, with the next step, for what cannot be meant so.
    """
    if not OWNER.fullmatch(participant):
        raise InvalidMessage(
            f"{participant!r:.100} is no name of a participant",
            next_step="use small letters, digits and dashes, as it is registered",
        )
    method, template = parted(call)
    given = dict(values or {})
    probed = None if probe is None else _probe(probe, given)
    if unused := sorted(given.keys() - places_in(template) - places_in(probe or "")):
        raise InvalidMessage(
            f"the REST call {call!r} has a value for {unused[0]!r}, and no place for it",
            next_step=f"write {{{unused[0]}}} where it is to stand, or leave the value out",
        )
    if keyed is None and method not in _REPEATABLE:
        raise InvalidMessage(
            f"the REST call {call!r} does not say whether the service honours {key_header}",
            next_step="write keyed=True where a repetition under the same key has no second effect "
            "there and gets the answer of the first, else keyed=False",
        )
    _check_times(call, timeout, grace, key_valid_for)
    plain, secrets = _headers(call, headers or {}, key_header)
    fills: list[Fill] = []
    sent = _taken_out(call, body, [], fills)
    return _class_of(participant, method, template, reply)(
        call=call,
        path=expanded(template, given),
        body=None if is_stand_in(sent) else sent,
        fills=fills,
        headers=plain,
        secrets=secrets,
        keyed=bool(keyed),
        key_header=key_header,
        key_valid_for=key_valid_for.total_seconds(),
        timeout=timeout.total_seconds(),
        answers=_answers(call, answers or {}),
        probe=probed,
        grace=grace.total_seconds(),
        has_value=reply is not None,
    )


def received(command: type[RestCall[Any]]) -> type[RestCall[Any]]:
    """The class by which a command of that class is received: any value may answer it."""
    return _class(str(command.message_type), Any)


def type_of_call(participant: str, method: str, template: str) -> str:
    """The type of the commands that make such a call, such as payments.post-charges.v1."""
    words = re.findall(r"[a-z0-9]+", f"{method} {template}".lower())
    name = f"{participant}.{'-'.join(words)}.v1"
    if len(name) <= MAX_TYPE_LENGTH:
        return name
    digest = hashlib.sha256(f"{method} {template}".encode()).hexdigest()[:8]
    return f"{name[: MAX_TYPE_LENGTH - 12].rstrip('-')}-{digest}.v1"


def _class_of(participant: str, method: str, template: str, reply: Any) -> type[RestCall[Any]]:
    return _class(type_of_call(participant, method, template), reply)


@functools.lru_cache(maxsize=10_000)
def _class(type_name: str, reply: Any) -> type[RestCall[Any]]:
    bases: Any = (RestCall[reply],)
    made: Any = types.new_class("RestCall", bases, {"type": type_name, "key": "call"})
    made.__module__ = __name__
    declared: type[RestCall[Any]] = dataclass(frozen=True)(made)
    return declared


def _probe(probe: str, values: Mapping[str, Any]) -> str:
    method, template = parted(probe)
    places = places_in(template)
    if method != "GET" or not places or REPLY in places:
        raise InvalidMessage(
            f"{probe!r} is no probe",
            next_step=f'write it as "GET /charges?key={{{KEY}}}", by what is known before the '
            "service has answered",
        )
    return expanded(template, values)


def _check_times(call: str, timeout: timedelta, grace: timedelta, key_valid_for: timedelta) -> None:
    wrong = ""
    if not 0 < timeout.total_seconds() <= MOST_SECONDS:
        wrong = f"timeout={timeout}"
    elif not 0 <= grace.total_seconds() <= MOST_SECONDS:
        wrong = f"grace={grace}"
    elif key_valid_for <= timedelta():
        wrong = f"key_valid_for={key_valid_for}"
    if wrong:
        raise InvalidMessage(
            f"the REST call {call!r} has {wrong}",
            next_step=f"timeout and grace are at most {MOST_SECONDS:g} s, and a time is not "
            "negative",
        )


def _headers(
    call: str, headers: Mapping[str, str | Secret], key_header: str
) -> tuple[dict[str, str], dict[str, Secret]]:
    for name, value in {**headers, key_header: ""}.items():
        text = value if isinstance(value, str) else value.form
        is_ours = name.lower() in _OURS or (name in headers and name.lower() == key_header.lower())
        if not _TOKEN.fullmatch(name) or is_ours or not (text.isprintable() and text.isascii()):
            raise InvalidMessage(
                f"the REST call {call!r} cannot have the header {name!r:.100}",
                next_step="leave out what the library sets itself (Host, Content-Type, "
                f"{key_header}), and use printable ASCII",
            )
    plain = {name: it for name, it in headers.items() if isinstance(it, str)}
    secrets = {name: it for name, it in headers.items() if isinstance(it, Secret)}
    return plain, secrets


def _taken_out(call: str, body: Any, at: list[str], fills: list[Fill]) -> Any:
    """The body with null in the places of what is known later, which are added to `fills`."""
    match body:
        case Later(name):
            if not name.startswith(f"{REPLY}.") and name not in (KEY, REPLY):
                raise InvalidMessage(
                    f"the body of the REST call {call!r} has Later({name!r:.100})",
                    next_step='write Later("reply.member"), or Later("key") for the id of the '
                    "action",
                )
            fills.append(Fill(at, name))
            return None
        case dict():
            return {it: _taken_out(call, body[it], [*at, str(it)], fills) for it in body}
        case list() | tuple():
            return [
                _taken_out(call, it, [*at, str(number)], fills) for number, it in enumerate(body)
            ]
        case _:
            return body


def _answers(call: str, answers: Mapping[int, Answer]) -> dict[str, str]:
    for status, answer in answers.items():
        if not 200 <= status <= 599 or answer not in get_args(Answer):
            raise InvalidMessage(
                f"the REST call {call!r} has answers={{{status!r}: {answer!r}}}",
                next_step=f"give a status of 200 to 599, and one of {', '.join(get_args(Answer))}",
            )
    return {str(status): answer for status, answer in answers.items()}
