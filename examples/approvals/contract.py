"""What the purchases send to the approvals, and what they get back."""

from dataclasses import dataclass

from outbox import Command


@dataclass(frozen=True)
class Approved:
    by: str


@dataclass(frozen=True)
class AskForApproval(Command[Approved], type="approvals.ask.v1", key="purchase"):
    """The action. Its answer comes when a person has decided."""

    purchase: str
    euros: int


@dataclass(frozen=True)
class WithdrawQuestion(Command[None], type="approvals.withdraw.v1", key="purchase"):
    """Its compensation."""

    purchase: str
