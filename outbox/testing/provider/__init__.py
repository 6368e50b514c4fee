"""A fake provider for tests: it charges, refunds and takes orders, and goes wrong as it is told.

    python -m outbox.testing.provider --port 9100 --database provider.sqlite

It is a process of its own at 127.0.0.1. Its state is one SQLite file, which outlives its death.
Each request has the header `Idempotency-Key`:

    POST /charges  {"account", "amount", "reference"}
        201; 402 beyond the limit of the account, 404 without one, 409 where the key is voided
    POST /refunds  {"charge"}, the id of one or its key
        201; 409 already-refunded; 200 where there is no such charge: its key is voided then, and
        none can come under it any more
    POST /orders  {"reference", "item", "webhook"}
        202; 409 where the key is voided. The URL `webhook` is told that the order is received, and
        then that it is confirmed or rejected: {"order", "key", "reference", "item", "number",
        "status"}
    POST /cancels  {"order"}, the key of one
        200, in each of its states

An account begins with `PUT /accounts/ID {"limit": 1000}`. `PUT /modes/charges {"fail_after": 1}`
lets requests of that kind go wrong (see `Modes`); `GET /modes/charges` tells what is left of that.
`GET /ledger` tells every charge and order, the key of each, how often it was asked for, and what
became of it.

In a test of one process `provider(path)` is the application itself:
`httpx.AsyncClient(transport=httpx.ASGITransport(provider(path)), base_url="http://provider")`. Its
lifespan does not run there, so that it calls no webhooks.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from outbox.lazy_names import names_of as _names_of

if TYPE_CHECKING:
    from outbox.testing.provider.app import provider
    from outbox.testing.provider.modes import Modes

__all__ = ["Modes", "provider"]

_HOMES = {
    "Modes": "outbox.testing.provider.modes",
    "provider": "outbox.testing.provider.app",
}
if not TYPE_CHECKING:
    # A type checker would take any name then.
    __getattr__ = _names_of(__name__, _HOMES)
