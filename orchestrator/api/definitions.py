"""The routes to the definitions that the orchestrator runs, and to their participants."""

from __future__ import annotations

from fastapi import APIRouter, Path

from orchestrator.api import views
from orchestrator.api.context import ApiContext
from orchestrator.api.models import DefinitionList, DefinitionOut, ParticipantList
from outbox.chassis.http.problems import documented
from outbox.chassis.http.strict_bodies import StrictRoute

_UNKNOWN = documented({404: "There is no such definition"})


def router(desk: ApiContext) -> APIRouter:
    """The router of these addresses."""
    routes = APIRouter(tags=["definitions"], route_class=StrictRoute)

    @routes.get("/definitions", summary="List the definitions, by name and version")
    async def list_definitions() -> DefinitionList:
        registry = desk.registry
        return DefinitionList(items=[views.definition_in_list(it, registry) for it in registry])

    @routes.get(
        "/definitions/{name}", summary="The latest version of a definition", responses=_UNKNOWN
    )
    async def latest(name: str) -> DefinitionOut:
        return views.definition(desk.registry.get(name))

    @routes.get(
        "/definitions/{name}/{version}", summary="One version of a definition", responses=_UNKNOWN
    )
    async def one(name: str, version: int = Path(ge=1, le=2**31 - 1)) -> DefinitionOut:
        return views.definition(desk.registry.get(name, version))

    @routes.get(
        "/participants",
        summary="List the services that this node sends to, with their addresses",
    )
    async def list_participants() -> ParticipantList:
        found = sorted(desk.addresses().items())
        return ParticipantList(items=[views.participant(name, it) for name, it in found])

    return routes
