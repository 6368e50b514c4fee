"""The comments service, put together: `uvicorn --factory comments.app:create_app`."""

from __future__ import annotations

from collections.abc import Mapping

from fastapi import FastAPI

from comments.api import ACCESS, router
from comments.handlers import add_handlers
from comments.model import SCHEMA_REVISION
from comments.settings import CommentsSettings
from outbox.chassis.configured import ConfiguredService
from outbox.chassis.service import Blueprint, build
from outbox.chassis.settings import load
from outbox.chassis.static_keys import guarded
from outbox.clock import Clock
from outbox.transports.base import Transport


def create_app(
    settings: CommentsSettings | None = None,
    *,
    clock: Clock | None = None,
    transports: Mapping[str, Transport] | None = None,
) -> FastAPI:
    """The application; `settings` come from the environment unless given. It lets no one in without
    a key, unless they say otherwise.

    `transports` replaces those that send to other services over HTTP. Raises InvalidSettings.
    """
    settings = settings or load(CommentsSettings)
    service = ConfiguredService(
        "comments",
        settings,
        database_url=settings.database_url,
        revision=SCHEMA_REVISION,
        clock=clock,
        transports=transports,
    )
    add_handlers(service)
    blueprint = Blueprint(
        service,
        title="Comments",
        description="The comments of the blog.",
        api=lambda _: router(service.database, clock=service.clock, new_id=service.new_id),
        access=ACCESS,
    )
    return build(guarded(blueprint, settings))
