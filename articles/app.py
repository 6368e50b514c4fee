"""The articles service, put together: `uvicorn --factory articles.app:create_app`."""

from __future__ import annotations

from collections.abc import Mapping

from fastapi import FastAPI

from articles.api import ACCESS, router
from articles.contract import ArticleDeleted, ArticleEdited, ArticlePublished
from articles.handlers import add_handlers
from articles.model import SCHEMA_REVISION
from articles.settings import ArticlesSettings
from outbox.chassis.configured import ConfiguredService
from outbox.chassis.service import Blueprint, build
from outbox.chassis.settings import load
from outbox.chassis.static_keys import guarded
from outbox.clock import Clock
from outbox.transports.base import Transport

ROUTES = {
    ArticlePublished: ["comments"],
    ArticleEdited: ["comments"],
    ArticleDeleted: ["comments"],
}
"""Who hears of what."""


def create_app(
    settings: ArticlesSettings | None = None,
    *,
    clock: Clock | None = None,
    transports: Mapping[str, Transport] | None = None,
) -> FastAPI:
    """The application; `settings` come from the environment unless given. It lets no one in without
    a key, unless they say otherwise.

    `transports` replaces those that send to the other services over HTTP. Raises InvalidSettings.
    """
    settings = settings or load(ArticlesSettings)
    service = ConfiguredService(
        "articles",
        settings,
        database_url=settings.database_url,
        revision=SCHEMA_REVISION,
        routes=ROUTES,
        clock=clock,
        transports=transports,
    )
    add_handlers(service)
    blueprint = Blueprint(
        service,
        title="Articles",
        description="The articles of the blog.",
        api=lambda _: router(
            service.database,
            clock=service.clock,
            new_id=service.new_id,
            orchestrator=settings.sagas_at(),
        ),
        access=ACCESS,
    )
    return build(guarded(blueprint, settings))
