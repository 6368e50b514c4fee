"""Sells something: the card is charged, and the parcel is booked, by services of others."""

from dataclasses import dataclass, replace
from datetime import timedelta

from orchestrator import RestCall, Saga, Secret, compensatable, pivot, rest

TOKEN = {"Authorization": Secret(env="PAYMENTS_TOKEN", form="Bearer {}")}
FOUND_BY = "GET /charges?key={key}"


@dataclass(frozen=True)
class Charged:
    id: str


@dataclass(frozen=True)
class Booked:
    label: str


@dataclass(frozen=True)
class Sale:
    order: str
    card: str
    cents: int
    kilos: int
    charge: str = ""
    label: str = ""

    def charged(self, reply: Charged) -> "Sale":
        return replace(self, charge=reply.id)

    def booked(self, reply: Booked) -> "Sale":
        return replace(self, label=reply.label)


def charge(it: Sale) -> RestCall[Charged]:
    return rest(
        "payments",
        "POST /charges",
        body={"card": it.card, "cents": it.cents},
        reply=Charged,
        keyed=True,
        headers=TOKEN,
        timeout=timedelta(seconds=5),
    )


def refund(_: Sale) -> RestCall[None]:
    return rest("payments", "DELETE /charges/{reply.id}", probe=FOUND_BY, headers=TOKEN)


sell = Saga(
    name="sell",
    version=1,
    state=Sale,
    key=lambda it: it.order,
    steps=[
        compensatable("charge card", charge, compensation=refund, on_reply=Sale.charged),
        pivot(
            "book parcel",
            lambda it: rest(
                "parcels", "POST /parcels", body={"kilos": it.kilos}, reply=Booked, keyed=True
            ),
            on_reply=Sale.booked,
        ),
    ],
)
