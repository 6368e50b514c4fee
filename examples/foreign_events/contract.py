"""What the shop tells, and what it makes of the parcels of its partner."""

from __future__ import annotations

from dataclasses import dataclass

import outbox


@dataclass(frozen=True)
class OrderPlaced(outbox.Event, type="shop.order-placed.v1", key="order"):
    order: str
    item: str


@dataclass(frozen=True)
class ParcelDelivered(outbox.Event, type="shop.parcel-delivered.v1", key="order"):
    order: str
