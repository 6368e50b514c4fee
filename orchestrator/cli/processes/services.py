"""The services that the terminal can start, by name."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any

from orchestrator.cli.processes import bundle
from outbox.transports.http.peer_lists import parts_in

if TYPE_CHECKING:
    from outbox.chassis.settings import ServiceSettings


FIRST_PORT = 8000
"""The first port of a set of services, unless the user names another."""

BLOG_SAGAS = ",".join(
    (
        "orchestrator.sagas.delete_article:delete_article",
        "orchestrator.sagas.purge_thread:purge_thread",
        "orchestrator.sagas.release_article:release_article",
        "orchestrator.sagas.retell_article:retell_article",
    )
)
"""The sagas of the blog, as SAGABOX_SAGAS names them: the deletion, and those by which the audit
repairs."""


def blog_defaults(environment: Mapping[str, str]) -> Mapping[str, str]:
    """The settings by which an orchestrator without other ones runs the blog's sagas, with its
    services at their usual ports. One whose peers are others runs no saga of the blog."""
    added = {}
    peers = f"{environment.get('SAGABOX_PEERS', '')},{environment.get('SAGABOX_PARTICIPANTS', '')}"
    named = {it.partition("=")[0].strip() for it in parts_in(peers)}
    has_blog = not named or {name for name, it in SERVICES.items() if it.offset} <= named
    if has_blog and not (environment.get("SAGABOX_SAGAS") or entry_points(group="sagabox.sagas")):
        added["SAGABOX_SAGAS"] = BLOG_SAGAS
    if not named:
        addresses = {it.name: FIRST_PORT + it.offset for it in SERVICES.values() if it.offset}
        added["SAGABOX_PEERS"] = ",".join(
            f"{name}=http://127.0.0.1:{port}" for name, port in addresses.items()
        )
    return added


def _nothing(_: Mapping[str, str]) -> Mapping[str, str]:
    return {}


@dataclass(frozen=True)
class Service:
    """`app` and `settings` are module:attribute; they are imported only where they are used.

    `offset` is the service's port, counted from the first port of a set of services. `defaults`
    gives the variables for an environment that lacks them. One that runs sagas is an orchestrator.
    """

    name: str
    app: str
    settings: str
    offset: int
    defaults: Callable[[Mapping[str, str]], Mapping[str, str]] = _nothing
    runs_sagas: bool = False

    @property
    def database_variable(self) -> str:
        """The environment variable with the address of its database."""
        return f"SAGABOX_DATABASE_URL_{self.name.upper()}"

    def create_app(self) -> Any:
        """The application, made from the settings in the environment. Raises OutboxError, and
        OrchestratorError for invalid sagas."""
        os.environ.update(self.defaults(os.environ))
        return _attribute(self.app)()

    def require_access(self) -> None:
        """Raises InvalidSettings where the settings in the environment are wrong, or would close
        the service's public routes to all callers."""
        from outbox.chassis.settings import load
        from outbox.chassis.static_keys import StaticKeySettings

        model = self.settings_model()
        if issubclass(model, StaticKeySettings):
            load(model).require_public_access()

    def settings_model(self) -> type[ServiceSettings]:
        """The model of the service's settings in the environment."""
        model: type[ServiceSettings] = _attribute(self.settings)
        return model


SERVICES: Mapping[str, Service] = {
    it.name: it
    for it in (
        Service("articles", "articles.app:create_app", "articles.settings:ArticlesSettings", 1),
        Service("comments", "comments.app:create_app", "comments.settings:CommentsSettings", 2),
        Service(
            "orchestrator",
            "orchestrator.app:create_app",
            "orchestrator.settings:OrchestratorSettings",
            0,
            defaults=blog_defaults,
            runs_sagas=True,
        ),
    )
}


def _attribute(path: str) -> Any:
    module, _, name = path.partition(":")
    if not module.startswith("orchestrator.") or _runs_blog(os.environ):
        bundle.put_on_path()
    return getattr(import_module(module), name)


def _runs_blog(environment: Mapping[str, str]) -> bool:
    """Whether sagas of the blog are among those that the orchestrator runs. Without them its
    packages are not put before a user's."""
    return "orchestrator.sagas." in environment.get("SAGABOX_SAGAS", "")
