"""The addresses of peers, and brokers: whether they are found, and whether they answer."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from orchestrator.cli.doctor.findings import Finding, ok, problem, warning

if TYPE_CHECKING:
    from outbox.transports.addresses.address import Address
    from outbox.transports.addresses.destination import Destination
    from outbox.transports.addresses.pool import Told
    from outbox.transports.brokers.address import BrokerAddress
    from outbox.transports.brokers.topics.topic import Topic
    from outbox.transports.http.signing import Keyring

_AREA = "addresses"
_SECONDS = 5.0
_ANSWER_SECONDS = 2.0


async def addresses(environment: Mapping[str, str]) -> list[Finding]:
    """Each peer in the settings, each broker, and each topic of others."""
    from orchestrator.settings import peers_among
    from outbox.capture.log_reader import readers_in
    from outbox.errors import InvalidKeyring, OutboxError
    from outbox.transports.brokers.topics.topic import topics_in
    from outbox.transports.http.peers import peers_in
    from outbox.transports.http.signing import Keyring
    from outbox.transports.webhooks.webhook import taken_apart

    peers: dict[str, str] = {}
    topics: dict[str, Topic] = {}
    # Plain HTTP services, webhooks and readers of the log are no addresses of receivers.
    for variable, receivers in (
        ("SAGABOX_PARTICIPANTS", peers_among),
        ("SAGABOX_PEERS", taken_apart),
    ):
        try:
            others, to_topics = topics_in(environment.get(variable, ""))
            topics |= to_topics
            peers |= peers_in(receivers(readers_in(others)[0])[0])
        except ValueError:
            continue  # the check of the settings tells what is wrong; or there are no others
    try:
        keys = Keyring.from_text(environment["SAGABOX_SECRETS"])
    except (KeyError, InvalidKeyring):
        keys = None
    found: list[Finding] = []
    places: Mapping[str, str | Topic] = {**peers, **topics}
    for name, place in places.items():
        try:
            found += await _of(name, place, keys)
        except OutboxError as error:
            found.append(problem(_AREA, name, error.problem, error.next_step))
    return found


async def _of(name: str, place: str | Topic, keys: Keyring | None) -> Sequence[Finding]:
    from outbox.transports.brokers.address import BrokerAddress
    from outbox.transports.http.peers import parsed

    if not isinstance(place, str):
        return [await _of_topic(name, place)]
    destination = parsed(place)
    if isinstance(destination, BrokerAddress):
        return [await _of_broker(name, place, destination)]
    if destination.is_one_address and keys is None:
        return []  # no request can be signed, and there is nothing to find
    return await _of_peer(name, destination, keys)


async def _of_broker(name: str, text: str, address: BrokerAddress) -> Finding:
    """Whether the broker answers, and what waits in the queue of that name."""
    from outbox.transports.brokers.opening import broker_at

    broker = broker_at(text)

    async def asked() -> str:
        waiting = await broker.waiting(name)
        return f"{address} answers; {waiting} packets wait in the queue {name}"

    try:
        return await _told_by_broker(name, address, asked())
    finally:
        await broker.aclose()


async def _of_topic(name: str, topic: Topic) -> Finding:
    """Whether its broker answers, and has the topic."""
    from outbox.transports.brokers.topics.clients import client_of

    client = client_of(topic)

    async def asked() -> str:
        await client.require(topic)
        return f"{topic} is there"

    try:
        return await _told_by_broker(name, topic.address, asked())
    finally:
        await client.aclose()


async def _told_by_broker(name: str, address: BrokerAddress, asked: Awaitable[str]) -> Finding:
    """What was `asked`, or why there is no answer."""
    from outbox.errors import OutboxError
    from outbox.transports.brokers.broker import BrokerAway

    next_step = "start the broker, or correct its address"
    try:
        async with asyncio.timeout(_SECONDS):
            return ok(_AREA, name, await asked)
    except TimeoutError:
        return problem(_AREA, name, f"{address} did not answer within {_SECONDS:g} s", next_step)
    except BrokerAway as away:
        # Most reasons begin with the broker, and some say already that it is away.
        why = away.reason.removeprefix(f"{address} ").removeprefix("is away: ")
        return problem(_AREA, name, f"{address} is away: {why}", next_step)
    except OutboxError as error:
        told = error.problem if str(address) in error.problem else f"{address}: {error.problem}"
        return problem(_AREA, name, told, error.next_step)


async def _of_peer(name: str, destination: Destination, keys: Keyring | None) -> list[Finding]:
    from outbox.transports.addresses.resolvers import resolver_of

    resolver = resolver_of(destination)
    try:
        async with asyncio.timeout(_SECONDS):
            there = [it.address for it in await resolver.found()]
    except TimeoutError:
        there = []
    finally:
        await resolver.aclose()
    trouble = resolver.trouble
    if not there:
        told = trouble or f"{destination} tells no address within {_SECONDS:g} s"
        return [problem(_AREA, name, told, "see docs/operate/addresses.md")]
    findings = [] if trouble is None else [warning(_AREA, name, trouble, "correct the name")]
    if keys is None:
        shown = ", ".join(map(str, there))
        told = f"{destination} has {len(there)} addresses: {shown}"
        next_step = "set SAGABOX_SECRETS, so that each can be asked whether it is there"
        return [*findings, warning(_AREA, name, told, next_step)]
    return [*findings, *_told(name, there, await _asked(name, there, keys))]


async def _asked(name: str, there: Sequence[Address], keys: Keyring) -> Sequence[Told]:
    """What each address says to a request without messages."""
    from outbox.clock import SystemClock
    from outbox.service.ways import transport_to

    transport = transport_to(
        str(there[0]), source="doctor", to=name, keys=keys, clock=SystemClock()
    )
    try:
        return await asyncio.gather(*(transport.ask(it, _ANSWER_SECONDS) for it in there))
    finally:
        await transport.aclose()


def _told(name: str, there: Sequence[Address], answers: Sequence[Told]) -> Iterator[Finding]:
    from outbox.transports.base import Unreachable

    databases = {it.database for it in answers} - {None}
    silent = 0
    for address, answer in zip(there, answers, strict=True):
        match answer.delivery:
            case Unreachable(reason) if len(there) == 1:
                next_step = "start it, or correct its address"
                yield problem(_AREA, name, f"{address} is not usable: {reason}", next_step)
            case Unreachable(reason):
                silent += 1
                next_step = "start it, or take it out of that name"
                yield warning(_AREA, name, f"{address} is not usable: {reason}", next_step)
            case _:
                yield ok(_AREA, name, f"{address} works on the database {answer.database}")
    if silent == len(there):
        yield problem(_AREA, name, "none of its addresses answers", "start the service")
    if len(databases) > 1:
        yield problem(
            _AREA,
            name,
            f"its addresses work on {len(databases)} databases, of which senders use one",
            "take the addresses of the others out of that name",
        )
