"""What a REST step may be, and what is refused when it is declared."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import Any

import pytest

from orchestrator import InvalidSaga, Later, Saga, Secret, compensatable, pivot, rest
from orchestrator.definition.registry import Registry
from orchestrator.definition.rest import RestCall, received
from orchestrator.rest_calls.participants import RestParticipants
from orchestrator.rest_calls.secrets import SecretMissing
from orchestrator.settings import OrchestratorSettings
from outbox.chassis.settings import InvalidSettings, load
from outbox.errors import InvalidMessage
from outbox.messages import Command, reply_type
from outbox.wire.codec import decode, encode
from tests.support.outbox.services import SECRETS

REST = "rest+https://pay.internal/v1"


@dataclass(frozen=True)
class Sale:
    order: str
    charge: str = ""


@dataclass(frozen=True)
class Ship(Command[None], type="shop.ship.v1", key="order"):
    order: str


@dataclass(frozen=True)
class Charged:
    id: str


def selling(action: Any, compensation: Any = None, **options: Any) -> Saga[Sale]:
    compensation = compensation or (lambda it: rest("payments", "DELETE /charges/{key}"))
    step = compensatable("charge", action, compensation=compensation, **options)
    return Saga(
        name="sell",
        version=1,
        state=Sale,
        key=lambda it: it.order,
        steps=[step, pivot("ship", lambda it: Ship(it.order))],
    )


def charge(it: Sale) -> RestCall[Charged]:
    return rest("payments", "POST /charges", body={"a": it.order}, reply=Charged, keyed=True)


@pytest.mark.parametrize(
    ("call", "options", "problem"),
    [
        ("charge /charges", {}, "does not begin with one of"),
        ("POST charges", {}, "does not begin with one slash"),
        ("POST //evil.internal/charges", {}, "does not begin with one slash"),
        ("POST https://evil.internal/", {}, "does not begin with one slash"),
        ("POST /a/../b", {}, "parts with dots"),
        ("POST /a/%2e%2e/b", {}, "parts with dots"),
        ("POST /a//b", {}, "empty parts"),
        ("POST /a b", {}, "characters that an address cannot have"),
        ("POST /a#b", {}, "characters that an address cannot have"),
        ("POST /{a b}", {}, "no name of a value"),
        ("POST /{charge}", {}, "has no value"),
        ("POST /charges", {"values": {"charge": "1"}}, "no place for it"),
        ("POST /{charge}", {"values": {"charge": ""}}, "another address"),
        ("POST /{charge}", {"values": {"charge": ".."}}, "another address"),
        ("POST /{charge}", {"values": {"charge": "../../admin/7"}}, "another address"),
        ("POST /{charge}", {"values": {"charge": "a\\..\\b"}}, "another address"),
        ("POST /{charge}", {"values": {"charge": "a%2f%2e%2e%2fb"}}, "another address"),
        ("POST /{charge}", {"values": {"charge": "..;/admin"}}, "another address"),
        ("POST /{charge}", {"values": {"charge": "a%252F.%252Fb"}}, "another address"),
        ("POST /{charge}", {"values": {"charge": 1.5}}, "is a float"),
        ("POST /charges", {"keyed": None}, "does not say whether"),
        ("POST /charges", {"probe": "POST /charges/{key}"}, "no probe"),
        ("POST /charges", {"probe": "GET /charges"}, "no probe"),
        ("POST /charges", {"timeout": timedelta()}, "timeout"),
        ("POST /charges", {"grace": timedelta(days=1)}, "grace"),
        ("POST /charges", {"headers": {"Host": "evil"}}, "cannot have the header"),
        ("POST /charges", {"headers": {"X": "a\r\nY: b"}}, "cannot have the header"),
        ("POST /charges", {"headers": {"Idempotency-Key": "1"}}, "cannot have the header"),
        ("POST /charges", {"body": {"a": Later("charge")}}, "has Later"),
        ("POST /charges", {"answers": {99: "done"}}, "answers="),
        ("POST /charges", {"answers": {402: "maybe"}}, "answers="),
    ],
)
def test_a_call_that_cannot_be_meant_so_is_refused(
    call: str, options: dict[str, Any], problem: str
) -> None:
    with pytest.raises(InvalidMessage, match=problem) as error:
        rest("payments", call, **{"keyed": True, **options})
    assert error.value.next_step


@pytest.mark.parametrize(
    "value", ["a/b", "..x", "a/b..", "a?b=c", "a#b", "{reply.id}", "ü", "a%2Fb", "."]
)
def test_a_value_stays_one_part_of_the_address(value: str) -> None:
    if value == ".":
        value = "a."
    call = rest("payments", "DELETE /charges/{charge}/x", values={"charge": value})
    parts = call.path.split("/")
    assert len(parts) == 4
    assert not set(parts[2]) & set("?#{}")


def test_a_secret_names_one_place() -> None:
    for wrong in ({}, {"env": "A", "file": "b"}, {"env": "A", "form": "Bearer"}):
        with pytest.raises(InvalidMessage):
            Secret(**wrong)


def test_a_mistake_in_a_step_names_the_step() -> None:
    with pytest.raises(InvalidSaga, match="the action of step 'charge'"):
        selling(lambda it: rest("payments", "POST charges", keyed=True))
    with pytest.raises(InvalidSaga, match="no reply before"):
        selling(lambda it: rest("payments", "POST /charges/{reply.id}", keyed=True))
    with pytest.raises(InvalidSaga, match="no reply before"):
        selling(lambda it: rest("payments", "PUT /charges", body=[Later("reply.id")]))
    with pytest.raises(InvalidSaga, match="deadline of step 'charge'"):
        selling(charge, deadline=timedelta(seconds=10))


def test_a_probe_of_a_compensation_counts_no_sooner_than_its_action_may_arrive() -> None:
    minute = timedelta(minutes=1)

    def slow(it: Sale) -> RestCall[Charged]:
        longer: Any = {"timeout": timedelta(seconds=11), "grace": minute}
        return rest("payments", "POST /charges", reply=Charged, keyed=True, **longer)

    def undo(_: Sale, **options: Any) -> RestCall[None]:
        return rest("payments", "DELETE /charges/{reply.id}", **options)

    probe: Any = {"probe": "GET /charges/{key}"}
    with pytest.raises(InvalidSaga, match=r"counts after 70 s, .* until 71 s") as error:
        selling(slow, partial(undo, **probe))
    assert "grace=" in str(error.value.next_step)
    assert len(selling(slow, undo).rest_calls) == 2, "without a probe it looks for nothing"
    longer = partial(undo, grace=minute + timedelta(seconds=1), **probe)
    assert len(selling(slow, longer).rest_calls) == 2


def test_the_shape_of_a_saga_has_its_calls() -> None:
    other = selling(lambda it: rest("payments", "POST /payments", reply=Charged, keyed=True))
    slower = selling(
        lambda it: rest(
            "payments", "POST /charges", reply=Charged, keyed=False, timeout=timedelta(seconds=3)
        )
    )
    assert selling(charge).fingerprint != other.fingerprint
    assert selling(charge).fingerprint == slower.fingerprint
    assert str(selling(charge).action_type("charge")) == "payments.post-charges.v1"


def test_a_call_arrives_as_it_was_made_and_takes_any_reply() -> None:
    made = charge(Sale("o-1"))
    as_received = received(type(made))
    assert vars(decode(as_received, encode(made))) == vars(made)
    assert reply_type(type(made)) is Charged
    assert reply_type(as_received) is Any


def test_a_step_and_its_participant_must_fit() -> None:
    def joined(saga: Saga[Any], **participants: str) -> None:
        RestParticipants(Registry([saga], participants))

    joined(selling(charge), payments=REST, shop="http://shop")
    with pytest.raises(InvalidSaga, match="not registered as a plain HTTP service"):
        joined(selling(charge), payments="https://pay.internal/v1", shop="http://shop")
    with pytest.raises(InvalidSaga, match=r"'ship'.* sends the command shop\.ship\.v1"):
        joined(selling(charge), payments=REST, shop="rest+http://shop")


def test_a_secret_that_is_missing_is_told_at_the_start(tmp_path: Any) -> None:
    file = tmp_path / "token"

    def with_secret(_: Sale) -> RestCall[None]:
        headers = {"Authorization": Secret(file=str(file))}
        return rest("payments", "POST /charges", keyed=True, headers=headers)

    registry = Registry([selling(with_secret)], {"payments": REST, "shop": "http://shop"})
    with pytest.raises(SecretMissing, match="token"):
        RestParticipants(registry)
    file.write_text("s3cr3t\n")
    assert RestParticipants(registry).names == {"payments"}


def _settings(**given: Any) -> OrchestratorSettings:
    return load(
        OrchestratorSettings, database_url="sqlite:////tmp/x.sqlite", secrets=SECRETS, **given
    )


def test_the_setting_takes_both_kinds_of_participants() -> None:
    settings = _settings(participants=f"payments={REST}/,shop=http://shop:8000")
    assert settings.participant_addresses() == {"payments": REST, "shop": "http://shop:8000"}
    assert settings.peer_addresses() == {"shop": "http://shop:8000"}


@pytest.mark.parametrize(
    "text",
    [
        "payments=rest+ftp://pay",
        "payments=rest+https://user:secret@pay",
        "payments=rest+https://pay/../x",
        f"payments={REST},payments={REST}",
        f"Payments={REST}",
    ],
)
def test_an_address_that_cannot_be_is_refused(text: str) -> None:
    with pytest.raises(InvalidSettings, match="SAGABOX_PARTICIPANTS"):
        _settings(participants=text)


def test_a_plain_http_service_among_the_peers_of_all_services_is_told_where_it_belongs() -> None:
    with pytest.raises(InvalidSettings, match="name it in SAGABOX_PARTICIPANTS"):
        _settings(peers=f"payments={REST}")


def test_a_peer_is_not_a_plain_http_service_too() -> None:
    settings = _settings(participants=f"payments={REST}", peers="payments=http://pay")
    with pytest.raises(InvalidSettings, match="payments is a peer"):
        settings.participant_addresses()
