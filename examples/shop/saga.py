"""Place an order: the goods are paid and shipped, or everything is as it was before."""

from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Self

from orchestrator import Saga, compensatable, pivot, retriable
from shop.contract import PLACE_ORDER, Charge, PlaceOrder, Release, Reserve, Reserved, Ship


@dataclass(frozen=True)
class Placing(PlaceOrder):
    """The input of the saga, and what it learns on the way."""

    total: int | None = None

    def note_reserved(self, reserved: Reserved) -> Self:
        return replace(self, total=reserved.total)

    def charge(self) -> Charge:
        assert self.total is not None, "the goods are reserved before the card is charged"
        return Charge(self.order_id, self.card, self.total)


place_order = Saga(
    name=PLACE_ORDER.name,
    version=1,
    state=Placing,
    key=lambda it: it.order_id,
    one_active=True,
    steps=[
        compensatable(
            "reserve stock",
            lambda it: Reserve(it.order_id),
            on_reply=Placing.note_reserved,
            compensation=lambda it: Release(it.order_id),
            deadline=timedelta(minutes=1),
        ),
        pivot("charge card", Placing.charge),
        retriable("ship", lambda it: Ship(it.order_id)),
    ],
)
