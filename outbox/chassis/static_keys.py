"""Keys that stand in the settings of a service, for one whose public routes are opened by one token
and which has no table of tokens."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

from pydantic import Field, ValidationInfo, field_validator

from outbox.chassis.access.keys import Key, StaticKeys
from outbox.chassis.access.routes import NOTHING, Access, Opens, Role
from outbox.chassis.settings import InvalidSettings, ServiceSettings

if TYPE_CHECKING:
    from outbox.chassis.service import Blueprint

_TOKEN = r"^[!-~]+$"  # what a header can carry

PublicToken = Annotated[
    str | None,
    Field(
        repr=False,
        pattern=_TOKEN,
        description="The public routes want it as Authorization: Bearer TOKEN, on this machine too",
    ),
]
"""The token of the public routes. A service declares it again with the name of its variable."""
PublicOpen = Annotated[
    bool, Field(description="Opens the public routes to all callers, without a token")
]
"""Whether they want none. A service declares it again with the name of its variable."""


class StaticKeySettings(ServiceSettings):
    """What a service is told beside that whose routes are the public's."""

    public_token: PublicToken = None
    public_open: PublicOpen = False
    metrics_token: str | None = Field(
        default=None,
        repr=False,
        pattern=_TOKEN,
        description="Opens /metrics and /docs to those who send it as Authorization: Bearer TOKEN",
    )

    @field_validator("public_open")
    @classmethod
    def _open_or_guarded(cls, value: bool, info: ValidationInfo) -> bool:
        if value and info.data.get("public_token") is not None:
            variable = cls.variable("public_token")
            raise ValueError(f"{variable} is set too, and only one of both can be meant")
        return value

    @classmethod
    def guards(cls) -> list[str]:
        """The variables of which each says who may call the service."""
        return [cls.variable(name) for name in ("public_token", "metrics_token", "public_open")]

    @classmethod
    def to_make_token(cls) -> str:
        """The command that makes the token of the public routes."""
        made = "$(python -c 'import secrets; print(secrets.token_urlsafe(32))')"
        return f"export {cls.variable('public_token')}={made}"

    def keys(self) -> StaticKeys:
        """What the two tokens open."""
        keys: dict[str, Key] = {}
        for name, token, opens in (
            ("public", self.public_token, frozenset({Access.PUBLIC})),
            ("metrics", self.metrics_token, Role.VIEWER.opens),
        ):
            if token is not None:
                same = keys.get(token, Key(name, frozenset()))
                keys[token] = Key(same.name, same.opens | opens)
        return StaticKeys(keys)

    def at_home(self) -> Opens:
        """As `ServiceSettings`; a token of the public routes is asked for here, too."""
        opened = super().at_home()
        return opened if self.public_token is None else opened - {Access.PUBLIC}

    def to_all(self) -> Opens:
        """What all callers may do without a token."""
        return frozenset({Access.PUBLIC}) if self.public_open else NOTHING

    def require_public_access(self) -> None:
        """Raises InvalidSettings where the public routes would be closed to all callers."""
        if self.public_token is None and not (self.public_open or self.trust_loopback):
            raise InvalidSettings(
                f"{self.variable('public_token')} is not set, so that the public routes would be "
                "closed to all callers",
                next_step=f"{self.to_make_token()}; or export {self.variable('public_open')}=1, to "
                "open them to all",
            )


def guarded(blueprint: Blueprint, settings: StaticKeySettings) -> Blueprint:
    """The same service, which opens to the keys in these settings."""
    tokens = [settings.variable(name) for name in ("public_token", "metrics_token")]
    return replace(
        blueprint,
        keys=settings.keys(),
        at_home=settings.at_home(),
        to_all=settings.to_all(),
        key_advice=f"The one who runs the service sets {' and '.join(tokens)}",
    )
