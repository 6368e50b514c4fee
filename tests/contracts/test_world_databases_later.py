"""A world finds the same bugs on every database in answers that come later, and in calls."""

from __future__ import annotations

import pytest
from sqlalchemy.orm import Session

from orchestrator.machine.instance import Status
from orchestrator.testing import Checked, Run, SagaWorld, WayFailed, check_saga
from outbox import Refused
from outbox.inbox.outside.results import ResultTransaction
from tests.support.checkout import ROOT

with pytest.MonkeyPatch.context() as patch:
    patch.syspath_prepend(ROOT / "examples" / "testing_a_saga")
    import parts
    import tickets


# Answers that come later


def workshop_builds(session: Session, command_id: str) -> None:
    parts.built(session, command_id, "axle", weight=12)


def check_part(
    database: str | None, only: str, build: object = workshop_builds, accept: object = None
) -> Checked:
    return check_saga(
        parts.order_part,
        parts.Part("axle"),
        participants={"parts": parts.service.handlers},
        schema=parts.Base.metadata,
        completions={parts.Build: [build], parts.Accept: [None, accept]},
        only=only,
        database=database,
    )


def test_a_refusal_that_does_not_take_back_what_the_handler_wrote_is_found(
    world_database: str | None,
) -> None:
    with pytest.raises(WayFailed, match="row part='axle': was not there, is there"):
        check_part(world_database, "is completed with", accept=Refused("no", "it does not fit"))


def test_a_webhook_that_is_too_late_and_writes_all_the_same_is_found(
    world_database: str | None,
) -> None:
    def hasty(session: Session, command_id: str) -> None:
        if session.get(parts.Job, "axle") is None:
            session.add(parts.Job(part="axle"))
            return
        workshop_builds(session, command_id)

    with pytest.raises(WayFailed, match="row part='axle': was not there, is there") as failed:
        check_part(world_database, "while step 'build' is pending", build=hasty)
    assert failed.value.way.endswith("and it is completed too late")


def test_a_webhook_that_fails_is_told_with_its_error(world_database: str | None) -> None:
    def broken(_session: Session, _id: str) -> None:
        raise KeyError("oops")

    with pytest.raises(WayFailed, match=r"'build' could not be completed: KeyError\('oops'\)"):
        check_part(world_database, "", build=broken)


# Calls to the outside, whose times are the database's


def check_ticket(database: str | None, only: str) -> Checked:
    def begin() -> None:
        tickets.provider.charges.clear()
        tickets.provider.voided.clear()

    def paid_once(_: SagaWorld, run: Run) -> None:
        due = 20 if run.status is Status.COMPLETED else 0
        assert sum(tickets.provider.charges.values()) == due, f"{tickets.provider.charges}"

    return check_saga(
        tickets.sell_ticket,
        tickets.Ticket("7"),
        participants={"tickets": tickets.tickets},
        schema=tickets.Base.metadata,
        begin=begin,
        invariant=paid_once,
        only=only,
        database=database,
    )


def test_a_provider_that_does_not_honour_its_keys_is_found(
    world_database: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def charge(key: str) -> int:
        charges = tickets.provider.charges
        return charges.setdefault(f"{key} {len(charges)}", 20)

    monkeypatch.setattr(tickets.provider, "charge", charge)
    with pytest.raises(WayFailed, match="the invariant does not hold: "):
        check_ticket(world_database, "the call of step 'pay' is taken over")


def test_an_inbox_that_drops_a_late_success_is_found(
    world_database: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ResultTransaction, "_write_late", lambda *_: None)
    monkeypatch.setattr(tickets.provider, "voided", _Forgetful())
    with pytest.raises(WayFailed, match="the invariant does not hold: "):
        check_ticket(world_database, "is made after its undo")


class _Forgetful(set[str]):
    """What a provider without a void remembers of one."""

    def add(self, _: str) -> None:
        pass
