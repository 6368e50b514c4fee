"""What the author of the booking of a trip wants to hold, beside what the library promises."""

from __future__ import annotations

from orchestrator.testing import View


def never_charged_without_a_seat(view: View) -> bool | str:
    """It holds in every booking."""
    return "charge" not in view.in_effect or "reserve seat" in view.in_effect


def never_charged_without_a_ticket(view: View) -> bool | str:
    """It does not: the ticket comes after the money."""
    if "charge" in view.in_effect and "send ticket" not in view.in_effect:
        return "a customer paid and has no ticket"
    return True


def a_run_that_completed_knows_its_seat(view: View) -> bool:
    """Looks at the saga's own state."""
    return view.status != "COMPLETED" or view.state.seat is not None


def no_passenger_sits_in_1b(view: View) -> bool:
    """Whether it holds depends on what a participant answers."""
    return bool(view.state.seat != "1B")
