"""What the two services may be asked, and what they answer; and what begins the saga, which knows
nothing else of them."""

from dataclasses import dataclass

from outbox import Command, SagaRef


@dataclass(frozen=True)
class PlaceOrder:
    order_id: str
    card: str


PLACE_ORDER = SagaRef[PlaceOrder]("place-order")


@dataclass(frozen=True)
class Reserved:
    total: int  # what the goods cost, in cents


@dataclass(frozen=True)
class Reserve(Command[Reserved], type="stock.reserve.v1", key="order_id"):
    """Hold the goods of the order back. Refused: unknown-order, sold-out."""

    order_id: str


@dataclass(frozen=True)
class Release(Command[None], type="stock.release.v1", key="order_id"):
    """Put back what Reserve held."""

    order_id: str


@dataclass(frozen=True)
class Ship(Command[None], type="stock.ship.v1", key="order_id"):
    """Send what Reserve held to the customer."""

    order_id: str


@dataclass(frozen=True)
class Charge(Command[None], type="payments.charge.v1", key="order_id"):
    """Take the money. Refused: unknown-card, limit-exceeded."""

    order_id: str
    card: str
    amount: int
