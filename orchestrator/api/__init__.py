"""The orchestrator over HTTP: runs, operators' signals, dead letters and definitions.

Every path is answered from the database, so each node shows the same; changes of a run go through
the engine.
"""

from __future__ import annotations

from fastapi import APIRouter

from orchestrator.api import dead_letters, definitions, events, operator, sagas
from orchestrator.api.context import ApiContext


def router(desk: ApiContext) -> APIRouter:
    """The router of all addresses."""
    parts = (sagas, operator, events, definitions, dead_letters)
    return APIRouter(routes=[route for part in parts for route in part.router(desk).routes])
