"""The settings of a service's database that the commands read, too: its tables, its password."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, Field, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from outbox.database.address.passwords import Password, password_at
from outbox.errors import OutboxError
from outbox.tables import Tables, tables_named

PREFIX = "SAGABOX_"


def _prefix_checked(prefix: str) -> str:
    return _named(prefix, None).prefix


def _schema_checked(schema: str | None) -> str | None:
    return _named("", schema).schema


def _named(prefix: str, schema: str | None) -> Tables:
    """Raises ValueError where no table can have such a name."""
    try:
        return tables_named(prefix, schema)
    except OutboxError as error:
        raise ValueError(str(error)) from error


class DatabaseSettings(BaseSettings):
    """What the services, the migrations and the commands are told of the database of a service."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        env_ignore_empty=True,
        extra="ignore",
        frozen=True,
        populate_by_name=True,
        hide_input_in_errors=True,
    )

    table_prefix: Annotated[str, AfterValidator(_prefix_checked)] = Field(
        default="",
        description="What the names of the library's tables begin with in this service's database. "
        "Give it to `sagabox migrate` and to each process of the service",
    )
    table_schema: Annotated[str | None, AfterValidator(_schema_checked)] = Field(
        default=None,
        validation_alias="SAGABOX_SCHEMA",
        description="The schema of the library's tables on PostgreSQL, given like the prefix. "
        "Unless set, the one in which the connection looks first",
    )
    database_password_from: str = Field(
        default="",
        description="The function that gives the password of the database, as module:function; it "
        "is called for each new connection, so that tokens that change can be used. It may be a "
        "coroutine function",
    )

    @field_validator("database_password_from")
    @classmethod
    def _is_function(cls, place: str) -> str:
        if place:
            password_at(place)
        return place

    def database_password(self) -> Password | None:
        """The function that gives the password of the database."""
        place = self.database_password_from
        return password_at(place) if place else None

    @property
    def tables(self) -> Tables:
        """The library's tables in the service's database."""
        return tables_named(self.table_prefix, self.table_schema)
