"""Which destinations an event has, where patterns stand for many events."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
from sqlalchemy.orm import sessionmaker

from outbox.adding.installation import Installation, install
from outbox.adding.routes import key_of, without_events
from outbox.errors import InvalidMessage, OutboxError, Unrouted
from outbox.messages import Command, Event


@dataclass(frozen=True)
class Opened(Event, type="shelves.opened.v1", key="shelf"):
    shelf: str


@dataclass(frozen=True)
class OpenedAnew(Event, type="shelves.opened.v2", key="shelf"):
    shelf: str


@dataclass(frozen=True)
class Moved(Event, type="shelves-north.moved.v1", key="shelf"):
    shelf: str


@dataclass(frozen=True)
class Close(Command[None], type="shelves.close.v1", key="shelf"):
    shelf: str


def installed(routes: Any, **options: Any) -> Installation:
    return install(sessionmaker(), source="shelves", routes=routes, **options)


PATTERNS = {"shelves.*": ["mail", "search"], Opened: ["audit"], "*": ["log"]}


@pytest.mark.parametrize(
    ("event", "to"),
    [
        (OpenedAnew("a"), ("mail", "search")),
        (Opened("a"), ("audit",)),
        (Moved("a"), ("log",)),
    ],
)
def test_the_most_particular_key_counts_alone(event: Event, to: tuple[str, ...]) -> None:
    assert installed(PATTERNS).destinations(event, None) == to
    backwards = dict(reversed(list(PATTERNS.items())))
    assert installed(backwards).destinations(event, None) == to, "in any order"


def test_an_event_without_destinations_has_none_although_its_pattern_has_some() -> None:
    routes = installed({"shelves.*": ["mail"], Opened: (), "*": ["log"]})
    assert routes.destinations(Opened("a"), None) == ()
    assert routes.destinations(OpenedAnew("a"), None) == ("mail",)


def test_an_owner_without_destinations_has_none_although_all_have_some() -> None:
    routes = installed({"shelves.*": (), "*": ["log"]})
    assert routes.destinations(Opened("a"), None) == ()
    assert routes.destinations(Moved("a"), None) == ("log",)


def test_a_pattern_stands_for_the_events_of_its_owner_alone() -> None:
    with pytest.raises(Unrouted, match=r"shelves-north.moved.v1 has no route") as error:
        installed({"shelves.*": ["mail"]}).destinations(Moved("a"), None)
    assert '"shelves-north.*"' in str(error.value)


def test_a_command_goes_to_its_owner_also_against_the_patterns() -> None:
    assert installed({"shelves.*": ["mail"], "*": ["log"]}).destinations(Close("a"), None) == (
        "shelves",
    )


def test_a_named_destination_replaces_the_pattern() -> None:
    assert installed(PATTERNS).destinations(Opened("a"), "press") == ("press",)


@pytest.mark.parametrize(
    "pattern",
    ["shelves*", "shelves.", "shelves.opened.*", "*.opened.v1", "*.*", "**", "Shelves.*", ".*", ""],
)
def test_a_pattern_that_cannot_be_is_refused_with_the_next_step(pattern: str) -> None:
    with pytest.raises(OutboxError) as error:
        installed({pattern: ["mail"]})
    assert repr(pattern) in error.value.problem
    if "*" in pattern:
        assert '"articles.*"' in error.value.next_step
    else:
        assert isinstance(error.value, InvalidMessage)


def test_a_pattern_names_known_peers() -> None:
    with pytest.raises(Unrouted, match="has no peer search"):
        installed(PATTERNS, peers=["mail", "audit", "log"])


def test_the_route_of_a_pattern_is_a_list_without_repetitions() -> None:
    with pytest.raises(OutboxError, match=r"the route of shelves\.\* is the text 'mail'"):
        installed({"shelves.*": "mail"})
    with pytest.raises(OutboxError, match=r"the route of \* names a destination twice"):
        installed({"*": ["mail", "mail"]})


def test_an_event_that_stands_twice_is_refused() -> None:
    with pytest.raises(OutboxError, match=r"shelves\.opened\.v1 is in routes= twice"):
        installed({Opened: ["mail"], "shelves.opened.v1": ["search"]})


def test_an_owner_of_whom_no_event_is_declared_is_known() -> None:
    keys = [key_of(it) for it in ("shelves.*", "shelfs.*", Opened, "shelfs.opened.v1", "*")]
    assert without_events(keys) == ["shelfs.*"]
