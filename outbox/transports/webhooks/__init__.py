"""Events as plain CloudEvents for subscribers outside, who know nothing of this library."""

from __future__ import annotations

from typing import TYPE_CHECKING

from outbox.lazy_names import names_of as _names_of

if TYPE_CHECKING:
    from outbox.transports.webhooks.transport import WebhookTransport
    from outbox.transports.webhooks.webhook import Webhook

__all__ = ["Webhook", "WebhookTransport"]

_HOMES = {
    "Webhook": "outbox.transports.webhooks.webhook",
    "WebhookTransport": "outbox.transports.webhooks.transport",
}
if not TYPE_CHECKING:
    # A type checker would take any name then.
    __getattr__ = _names_of(__name__, _HOMES)
