"""Asking a provider over HTTP: the one that charges cards, and the airline."""

import os
from typing import Any

import httpx

import outbox

_SAYS_NO = (402, 404, 409)


def client(variable: str) -> httpx.AsyncClient:
    """For the provider whose address that environment variable has."""
    # A server closes a connection that has rested; a request must not meet that.
    limits = httpx.Limits(keepalive_expiry=2)
    return httpx.AsyncClient(base_url=os.environ[variable], limits=limits, trust_env=False)


async def ask(
    provider: httpx.AsyncClient, path: str, key: str, body: dict[str, Any]
) -> dict[str, Any] | outbox.Refused:
    """Ask under that idempotency key; the answer. Raises httpx.HTTPError where there is none: what
    was asked for may have come or not."""
    answer = await provider.post(path, json=body, headers={"Idempotency-Key": key})
    if answer.status_code in _SAYS_NO:
        said = answer.json()
        return outbox.Refused(said["code"], said["message"])
    return dict(answer.raise_for_status().json())
