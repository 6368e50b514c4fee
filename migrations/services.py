"""The services that have a database, with the places of their histories and models."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

from sqlalchemy import MetaData

from migrations.errors import MigrationError
from outbox.tables import Tables

_HERE = Path(__file__).resolve().parent


@dataclass(frozen=True)
class Service:
    """A service with a history of its own in `folder`.

    `models` names the module with the service's `metadata`, or with the `saga_tables` that have the
    names of the library's; it is imported only where the models are compared with a database.
    """

    name: str
    models: str
    folder: Path

    @property
    def variable(self) -> str:
        """The environment variable that holds the address of the service's database."""
        return f"SAGABOX_DATABASE_URL_{self.name.upper()}"

    def metadata(self, tables: Tables) -> MetaData:
        """The tables as the service's code declares them, beside those of the library."""
        models = import_module(self.models)
        has_names = getattr(models, "saga_tables", None)
        found = models.metadata if has_names is None else has_names(tables).metadata
        assert isinstance(found, MetaData), f"the metadata of {self.models} is {found!r}"
        return found


SERVICES: Mapping[str, Service] = {
    it.name: it
    for it in (
        Service("articles", models="articles.model", folder=_HERE / "articles"),
        Service("comments", models="comments.model", folder=_HERE / "comments"),
        Service("orchestrator", models="orchestrator.tables", folder=_HERE / "orchestrator"),
    )
}


def service_named(name: str) -> Service:
    """The service of that name. Raises MigrationError where there is none."""
    service = SERVICES.get(name)
    if service is None:
        raise MigrationError(
            f"there is no service {name!r}",
            f"the services with a database are {', '.join(SERVICES)}",
            "name one of them, or all",
        )
    return service
