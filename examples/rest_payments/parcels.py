"""Books parcels. A plain FastAPI service that takes its time: it says where the answer will be."""

from typing import Annotated

from fastapi import FastAPI, Header, HTTPException, Response
from pydantic import BaseModel

app = FastAPI(title="parcels")
parcels: dict[str, int] = {}
"""How often each was asked for, by its idempotency key."""


class Parcel(BaseModel):
    kilos: int


@app.post("/parcels", status_code=202)
def book(parcel: Parcel, response: Response, idempotency_key: Annotated[str, Header()]) -> None:
    if parcel.kilos > 30:
        raise HTTPException(422, "a parcel has at most 30 kilos")
    parcels.setdefault(idempotency_key, 0)
    response.headers["Location"] = f"/parcels/{idempotency_key}"
    response.headers["Retry-After"] = "1"


@app.get("/parcels/{key}")
def look(key: str, response: Response) -> dict[str, str] | None:
    parcels[key] += 1
    if parcels[key] == 1:
        response.status_code = 202
        return None
    return {"label": f"label for {key}"}
