"""The commands and variables that files of `deploy/` give to Sagabox, held against the code."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import typer

from orchestrator.cli import main
from orchestrator.cli.processes.services import SERVICES
from orchestrator.cli.services.setting_files import SUFFIX
from outbox.chassis.database_settings import DatabaseSettings
from outbox.chassis.settings import documented

_OF_UVICORN = "FORWARDED_ALLOW_IPS"
_OF_LOGS = ("SAGABOX_LOG_FORMAT", "SAGABOX_LOG_LEVEL")
_DEFAULT = re.compile(r"\$\{(?P<name>\w+):-(?P<default>[^}]*)\}")


def require_command(words: Sequence[str]) -> None:
    """Read the words behind `sagabox` as a call does. Raises the error of one that does not fit."""
    command: Any = typer.main.get_command(main)
    rest = list(words)
    if rest[0] == "migrate":
        from migrations.cli import main as migrations

        command, rest = typer.main.get_command(migrations), rest[1:]
    context = command.make_context("sagabox", rest)
    while isinstance(command, typer.core.TyperGroup):
        rest = [*context._protected_args, *context.args]
        name, command, rest = command.resolve_command(context, rest)
        context = command.make_context(name, list(rest), parent=context)


def unread(command: Sequence[str], variables: Iterable[str]) -> Collection[str]:
    """Those of the variables that this command does not read."""
    return {it for it in variables if it.removesuffix(SUFFIX) not in _read_by(command)}


def _read_by(command: Sequence[str]) -> Collection[str]:
    match command:
        case ["serve", name, *_]:
            own = {it.variable for it in documented(SERVICES[name].settings_model())}
            return {*own, *_OF_LOGS, _OF_UVICORN}
        case ["migrate", "upgrade", name, *_]:
            return {SERVICES[name].database_variable, *_of_databases()}
        case ["token", *_]:
            return {SERVICES["orchestrator"].database_variable, *_of_databases()}
        case _:
            raise AssertionError(f"sagabox {command}: the tests do not know what it reads")


def _of_databases() -> Collection[str]:
    prefix = str(DatabaseSettings.model_config["env_prefix"])
    return {
        str(it.validation_alias or prefix + name.upper())
        for name, it in DatabaseSettings.model_fields.items()
    }


def filled_in(text: str, given: Mapping[str, str]) -> str:
    """A value of compose.yaml as it is with these variables in the environment."""
    filled = _DEFAULT.sub(lambda it: given.get(it["name"]) or it["default"], text)
    return filled.replace("$$", "$")
