"""The same partner with FastStream, which Sagabox does not install. It gets the events in binary
mode (topic+nats://127.0.0.1:4222/shop.orders?mode=binary): the body is the data alone.

pip install "faststream[nats,cli]"
faststream run partner_faststream:app
"""

from __future__ import annotations

import os

from faststream import FastStream  # type: ignore[import-not-found]  # it is not installed
from faststream.nats import (  # type: ignore[import-not-found]  # it is not installed
    JStream,
    NatsBroker,
)
from faststream.nats.annotations import (  # type: ignore[import-not-found]  # it is not installed
    NatsMessage,
)
from pydantic import BaseModel

broker = NatsBroker(os.environ.get("BROKER", "nats://127.0.0.1:4222"))
app = FastStream(broker)


class Order(BaseModel):
    order: str
    item: str


@broker.subscriber("shop.orders", stream=JStream("ORDERS"), durable="partner")  # type: ignore[untyped-decorator]  # as above
async def deliver(order: Order, message: NatsMessage) -> None:
    event = message.headers["ce-id"]
    for state in ("packed", "delivered"):
        await broker.publish(
            {"reference": order.order, "state": state},
            "partner.parcels",
            stream="PARCELS",
            headers={"parcel-event": f"{event}-{state}"},
        )
