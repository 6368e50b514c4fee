"""The orchestrator over HTTP: sagas, what a person may do to them, and what they are made of.

Every path is answered from the database, so each node shows the same; what changes a run goes
through the engine.
"""

from __future__ import annotations

from fastapi import APIRouter

from orchestrator.api import dead_letters, definitions, events, operator, sagas
from orchestrator.api.context import ApiContext


def router(desk: ApiContext) -> APIRouter:
    """All addresses."""
    parts = (sagas, operator, events, definitions, dead_letters)
    return APIRouter(routes=[route for part in parts for route in part.router(desk).routes])
