"""The partner, on nats-py alone: it reads the orders of the shop, and tells how its parcels do.

python partner.py nats://127.0.0.1:4222
"""

from __future__ import annotations

import asyncio
import json
import sys

import nats
from nats.aio.msg import Msg
from nats.js import JetStreamContext


async def main(broker: str) -> None:
    client = await nats.connect(broker)
    jetstream = client.jetstream()
    await jetstream.add_stream(name="ORDERS", subjects=["shop.orders"])
    await jetstream.add_stream(name="PARCELS", subjects=["partner.parcels"])
    reading = await jetstream.subscribe("shop.orders", durable="partner")
    print("reading", flush=True)
    async for message in reading.messages:
        await deliver(jetstream, message)
        await message.ack()


async def deliver(jetstream: JetStreamContext, message: Msg) -> None:
    event = json.loads(message.data)  # a CloudEvent in structured mode
    print(event["id"], event["type"], event["data"]["order"], flush=True)
    for state in ("packed", "delivered"):
        parcel = {"reference": event["data"]["order"], "state": state}
        headers = {"parcel-event": f"{event['id']}-{state}"}
        await jetstream.publish("partner.parcels", json.dumps(parcel).encode(), headers=headers)


asyncio.run(main(sys.argv[1]))
