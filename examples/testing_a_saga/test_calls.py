"""Calls to the outside: `pytest test_calls.py`."""

from collections.abc import Callable

from tickets import Base, Ticket, provider, sell_ticket, tickets

from orchestrator.testing import Run, SagaWorld, check_saga


def begin_anew() -> None:
    provider.charges.clear()
    provider.voided.clear()


def printed_tickets_are_paid_once(_: SagaWorld, run: Run) -> None:
    assert sum(provider.charges.values()) == (20 if run.status == "COMPLETED" else 0)


def test_a_ticket_is_printed_and_paid_once_or_neither() -> None:
    check_saga(
        sell_ticket,
        Ticket("7"),
        participants={"tickets": tickets},
        schema=Base.metadata,
        begin=begin_anew,
        invariant=printed_tickets_are_paid_once,
    )


def test_a_call_that_is_cut_off_is_made_again(saga_world: Callable[..., SagaWorld]) -> None:
    begin_anew()
    world = saga_world(sell_ticket, participants={"tickets": tickets}, schema=Base.metadata)
    world.disturb("pay", "cut off")
    assert world.run(Ticket("7")).status == "COMPLETED"
    assert len(provider.charges) == 1
