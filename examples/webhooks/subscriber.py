"""A subscriber: it checks what comes, keeps each event once, and answers 2xx. It uses no Sagabox.

CRM_SECRET=whsec_... CRM_FILE=crm.sqlite uvicorn webhooks.subscriber:app --port 8099
"""

from __future__ import annotations

import base64
import hmac
import json
import os
import sqlite3
import time
from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI, Request, Response

app = FastAPI()
store = sqlite3.connect(os.environ.get("CRM_FILE", "crm.sqlite"), isolation_level=None)
store.execute("CREATE TABLE IF NOT EXISTS taken (place INTEGER PRIMARY KEY, id UNIQUE, event)")


def is_genuine(headers: Mapping[str, str], body: bytes, secret: str, now: float) -> bool:
    key = base64.b64decode(secret.removeprefix("whsec_"))
    timestamp = headers["webhook-timestamp"]
    signed = f"{headers['webhook-id']}.{timestamp}.".encode() + body
    expected = b"v1," + base64.b64encode(hmac.digest(key, signed, "sha256"))
    if not timestamp.isdigit() or abs(now - int(timestamp)) > 300:
        return False
    given = headers["webhook-signature"].encode().split(b" ")
    return any(hmac.compare_digest(each, expected) for each in given)


@app.post("/hooks/blog")
async def take(request: Request) -> Response:
    body = await request.body()
    try:
        genuine = is_genuine(request.headers, body, os.environ["CRM_SECRET"], time.time())
    except KeyError:
        genuine = False
    if not genuine:
        return Response("the signature is absent, wrong or old", status_code=401)
    # One statement, committed before the answer: an event that comes again changes nothing.
    row = (request.headers["webhook-id"], body.decode())
    store.execute("INSERT INTO taken (id, event) VALUES (?, ?) ON CONFLICT DO NOTHING", row)
    return Response(status_code=204)


@app.get("/taken")
async def taken() -> list[dict[str, Any]]:
    """The events in the order in which they came."""
    return [
        json.loads(event) for (event,) in store.execute("SELECT event FROM taken ORDER BY place")
    ]
