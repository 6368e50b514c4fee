"""Charges cards. A plain FastAPI service, as it could have been there for years."""

import os
from typing import Annotated

from fastapi import FastAPI, Header, HTTPException, Response
from pydantic import BaseModel

app = FastAPI(title="payments")
charges: dict[str, dict[str, object]] = {}
"""By the idempotency key. A real service has them in its database."""
flaky = {"4000"}
"""Cards whose first charge is made, and answered by an error."""


class Charge(BaseModel):
    card: str
    cents: int


def check(authorization: str) -> None:
    if authorization != f"Bearer {os.environ['PAYMENTS_TOKEN']}":
        raise HTTPException(401, "who are you?")


@app.post("/v1/charges", status_code=201)
def charge(
    charge: Charge,
    idempotency_key: Annotated[str, Header()],
    authorization: Annotated[str, Header()],
) -> dict[str, object]:
    check(authorization)
    if charge.cents > 500_00:
        raise HTTPException(422, "the card does not bear that")
    id = f"ch_{len(charges) + 1}"
    made = charges.setdefault(idempotency_key, {"id": id, "cents": charge.cents})
    if charge.card in flaky:
        flaky.remove(charge.card)
        raise HTTPException(500, "it was charged, and then the service broke")
    return made


@app.get("/v1/charges")
def look(key: str, authorization: Annotated[str, Header()]) -> dict[str, object]:
    check(authorization)
    if key not in charges:
        raise HTTPException(404, "there is no such charge")
    return charges[key]


@app.delete("/v1/charges/{id}", status_code=204)
def refund(id: str, authorization: Annotated[str, Header()]) -> Response:
    check(authorization)
    for key, made in charges.items():
        if made["id"] == id:
            del charges[key]
            return Response(status_code=204)
    raise HTTPException(404, "there is no such charge")


@app.get("/total")
def total() -> dict[str, int]:
    return {"charges": len(charges)}
