"""The webhooks of a fake provider, called until each was taken as often as it shall be."""

from __future__ import annotations

import asyncio

import httpx

from outbox.clock import Clock
from outbox.testing.provider.ledger import Ledger

_LOOK = 0.05  # seconds between two looks for what is due
_PAUSE = 0.3  # seconds before a webhook is called again
_TIMEOUT = 5.0


async def call_webhooks(ledger: Ledger, clock: Clock) -> None:
    """Call what is due, for ever."""
    async with httpx.AsyncClient(timeout=_TIMEOUT, trust_env=False) as client:
        while True:
            webhook = ledger.next_webhook(clock.now())
            if webhook is None:
                await asyncio.sleep(_LOOK)
                continue
            try:
                answer = await client.post(
                    webhook.url,
                    content=webhook.body,
                    headers={"content-type": "application/json"},
                )
                taken = answer.is_success
            except httpx.TransportError:
                taken = False
            if taken:
                ledger.webhook_taken(webhook)
            else:
                ledger.webhook_failed(webhook, clock.now(), _PAUSE)
