"""The messages that other services may use."""

from dataclasses import dataclass

from outbox import Command, Event


@dataclass(frozen=True)
class OrderPlaced(Event, type="orders.order-placed.v1", key="order_id"):
    order_id: str
    item: str


@dataclass(frozen=True)
class CancelOrder(Command[None], type="orders.cancel-order.v1", key="order_id"):
    order_id: str
