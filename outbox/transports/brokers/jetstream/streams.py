"""The stream of a queue: its names, how it is made, and whether one that is there will do."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from outbox.transports.brokers.address import BrokerAddress
from outbox.transports.brokers.broker import BrokerAway, BrokerRefused
from outbox.transports.brokers.jetstream.connection import ApiError, Connection

NO_STREAM = 10059
_TAKEN = 10058
_AS_WORK_QUEUE = {"storage": "file", "retention": "workqueue", "discard": "new"}


@dataclass(frozen=True)
class Names:
    """What a queue is called at NATS, which refuses dots, blanks and wildcards in a name."""

    prefix: str
    queue: str
    partitions: int

    @property
    def stream(self) -> str:
        """The name of its stream."""
        return f"{_escaped(self.prefix)}_{_escaped(self.queue)}"

    def subject(self, partition: int) -> str:
        """Where the packets of a partition are published."""
        return f"{_escaped(self.prefix)}.{_escaped(self.queue)}.{partition}"

    @property
    def subjects(self) -> list[str]:
        """Those of all partitions. They are named one by one, so that a sender with another number
        of partitions is refused."""
        return [self.subject(it) for it in range(self.partitions)]


@dataclass(frozen=True)
class OneSubject(Names):
    """A subject of others, named as they name it: `queue` is the subject, `prefix` the stream."""

    @property
    def stream(self) -> str:
        """The name of their stream."""
        return self.prefix

    def subject(self, partition: int) -> str:
        """The subject, which has one partition."""
        return self.queue


@dataclass(frozen=True)
class Stream:
    """A stream that will do. `largest` is the most bytes of a message with its headers, None where
    it names none. `takes_as_one` says whether it keeps several messages as one: all, or none. A
    server can do that from 2.12 on."""

    names: Names
    largest: int | None
    takes_as_one: bool


async def stream_of(connection: Connection, address: BrokerAddress, queue: str) -> Stream:
    """The stream of a queue, made if there is none.

    Raises BrokerAway and BrokerRefused.
    """
    names = Names(address.prefix, queue, address.partitions)
    try:
        try:
            told = await connection.api(f"STREAM.INFO.{names.stream}")
        except ApiError as error:
            if error.number != NO_STREAM:
                raise
            told = await _made(connection, names, int(address.options.get("replicas", "1")))
    except ApiError as error:
        raise as_told(error, f"the stream {names.stream}") from error
    found = told["config"]
    _require(found, names)
    largest = found.get("max_msg_size", -1)
    return Stream(names, largest if largest > 0 else None, bool(found.get("allow_atomic")))


async def waiting_in(connection: Connection, names: Names) -> int:
    """The number of messages in the stream. Raises BrokerAway and BrokerRefused."""
    try:
        told = await connection.api(f"STREAM.INFO.{names.stream}")
    except ApiError as error:
        if error.number == NO_STREAM:
            return 0
        raise as_told(error, f"the stream {names.stream}") from error
    return int(told["state"]["messages"])


def as_told(error: ApiError, what: str) -> BrokerAway | BrokerRefused:
    """The error of the port for one of JetStream's."""
    if error.is_passing:
        return BrokerAway(f"JetStream cannot serve {what} now: {error}", sent=False)
    return BrokerRefused(
        f"JetStream refuses {what}: {error}",
        next_step="look at the limits of the server and of the account: nats server report, "
        "nats account info",
    )


async def _made(connection: Connection, names: Names, replicas: int) -> dict[str, Any]:
    config = {
        "name": names.stream,
        "subjects": names.subjects,
        "num_replicas": replicas,
        "allow_atomic": True,
        **_AS_WORK_QUEUE,
    }
    try:
        return await connection.api(f"STREAM.CREATE.{names.stream}", config)
    except ApiError as error:
        if error.number != _TAKEN:
            raise
        # Another process was faster, and has other replicas.
        return await connection.api(f"STREAM.INFO.{names.stream}")


def _require(found: Mapping[str, Any], names: Names) -> None:
    """Raises BrokerRefused where that stream would lose or divide what it is given."""
    troubles = [
        f"its {name} is {found.get(name)!r}, not {wanted!r}"
        for name, wanted in _AS_WORK_QUEUE.items()
        if found.get(name) != wanted
    ]
    if found.get("max_age"):
        troubles.append("it drops what is older than its max_age")
    if found.get("max_msgs_per_subject", -1) > 0 and not found.get("discard_new_per_subject"):
        troubles.append("its max_msgs_per_subject drops old messages")
    if found.get("no_ack"):
        troubles.append("it acknowledges nothing (no_ack)")
    if found.get("persist_mode") == "async":
        troubles.append("it acknowledges before it has written (persist_mode async)")
    if found.get("subject_transform"):
        troubles.append("it stores under other subjects than those of its readers")
    if found.get("sealed"):
        troubles.append("it is sealed")
    if troubles:
        raise BrokerRefused(
            f"the stream {names.stream} is no queue of Sagabox: {'; '.join(troubles)}",
            next_step=f"change it with nats stream edit {names.stream}, or choose another prefix",
        )
    if {*found.get("subjects", ())} != {*names.subjects}:
        raise BrokerRefused(
            f"the stream {names.stream} has {len(found.get('subjects', ()))} subjects, where the "
            f"address asks for the {names.partitions} partitions from {names.subject(0)}",
            next_step="give all senders and readers of the queue the same partitions= and prefix=; "
            "to change the number, empty the queue and delete the stream first",
        )


def _escaped(name: str) -> str:
    return "".join(
        it if it.isascii() and (it.isalnum() or it in "-_") else f"={ord(it):x}=" for it in name
    )
