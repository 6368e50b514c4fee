"""Secrets by reference: read at each call, and taken out of every text that is kept."""

from __future__ import annotations

import os
from collections.abc import Collection
from pathlib import Path

from orchestrator.definition.rest import RestCall, Secret
from outbox.errors import OutboxError

_HIDDEN = "***"


class SecretMissing(OutboxError):
    """A secret that a REST step refers to is not there."""


def read(secret: Secret) -> str:
    """The secret itself. Raises SecretMissing."""
    if secret.env is not None:
        text, where = os.environ.get(secret.env, ""), f"the environment variable {secret.env}"
        remedy = f"set {secret.env} where the orchestrator runs"
    else:
        where, remedy = f"the file {secret.file}", "let the orchestrator read it there"
        try:
            text = Path(str(secret.file)).read_text().strip()
        except (OSError, UnicodeDecodeError) as error:
            where += f" ({type(error).__name__})"
            text = ""
    if not text or not (text.isascii() and text.isprintable()):
        raise SecretMissing(f"there is no secret in {where}", next_step=remedy)
    return text


def headers_of(command: RestCall[object]) -> tuple[dict[str, str], Collection[str]]:
    """The headers of the request, and the secrets in them. Raises SecretMissing."""
    found = {name: read(it) for name, it in command.secrets.items()}
    stand = {name: command.secrets[name].form.replace("{}", it) for name, it in found.items()}
    return {**command.headers, **stand}, [*found.values(), *stand.values()]


def hidden(text: str, secrets: Collection[str]) -> str:
    """The text without these secrets."""
    for secret in sorted(secrets, key=len, reverse=True):
        text = text.replace(secret, _HIDDEN)
    return text
