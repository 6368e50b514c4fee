"""The services that the terminal can start, by name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any

from orchestrator.cli import bundle

if TYPE_CHECKING:
    from outbox.web.settings import ServiceSettings


@dataclass(frozen=True)
class Service:
    """`app` and `settings` are module:attribute; they are imported only where they are used.

    `offset` is the service's port, counted from the first port of a set of services.
    """

    name: str
    app: str
    settings: str
    offset: int

    @property
    def database_variable(self) -> str:
        """The environment variable with the address of its database."""
        return f"SAGABOX_DATABASE_URL_{self.name.upper()}"

    def create_app(self) -> Any:
        """The application, made from the settings in the environment. Raises OutboxError."""
        return _attribute(self.app)()

    def settings_model(self) -> type[ServiceSettings]:
        """What the service reads from the environment."""
        model: type[ServiceSettings] = _attribute(self.settings)
        return model


SERVICES: Mapping[str, Service] = {
    it.name: it
    for it in (
        Service("articles", "articles.app:create_app", "articles.settings:ArticlesSettings", 1),
        Service("comments", "comments.app:create_app", "comments.settings:CommentsSettings", 2),
    )
}

FIRST_PORT = 8000
"""From where ports are counted unless somebody says otherwise."""


def _attribute(path: str) -> Any:
    bundle.put_on_path()
    module, _, name = path.partition(":")
    return getattr(import_module(module), name)
