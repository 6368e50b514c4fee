"""The settings in the environment: those that are known, and those that nothing reads."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from difflib import get_close_matches

from orchestrator.cli.doctor.findings import Finding, ok, problem, warning
from orchestrator.cli.processes.services import SERVICES

_AREA = "settings"
_OURS = "SAGABOX_"
_LIKE = 0.8  # of 1: all names begin alike
_OF_ANY_SERVICE = ("SAGABOX_DATABASE_URL_", "SAGABOX_URL_")
_OTHERS = (
    *("SAGABOX_URL_ORCHESTRATOR", "SAGABOX_TOKEN", "SAGABOX_AUDIT", "SAGABOX_LOG_FORMAT"),
    *("SAGABOX_LOG_LEVEL", "SAGABOX_OPERATOR_TOKEN", "SAGABOX_CRASH_AT", "SAGABOX_PARENT"),
)
"""Settings that no model of a service has."""


def settings(environment: Mapping[str, str]) -> Iterator[Finding]:
    """The findings about these variables. No value is told: some are secrets."""
    known = known_settings()
    for name in sorted(it for it in environment if it.startswith(_OURS)):
        if name in known or name.startswith(_OF_ANY_SERVICE):
            yield ok(_AREA, name, "is set" if environment[name] else "is set to nothing")
        else:
            near = get_close_matches(name, known, n=1, cutoff=_LIKE)
            next_step = f"export {near[0]} instead" if near else f"unset {name}"
            yield warning(_AREA, name, "is read by nothing", next_step)
    yield from _values(environment)


def known_settings() -> Collection[str]:
    """The variables that anything reads, beside those with a service's own name in them."""
    from outbox.chassis.settings import documented

    models = [it.settings_model() for it in SERVICES.values()]
    return {it.variable for model in models for it in documented(model)} | set(_OTHERS)


def _values(environment: Mapping[str, str]) -> Iterator[Finding]:
    """The findings about the values, of each service whose database is named."""
    from orchestrator.settings import unshared_secrets
    from outbox.chassis.settings import load
    from outbox.errors import OutboxError

    for service in SERVICES.values():
        if not environment.get(service.database_variable):
            continue
        given, told = {}, "has what it needs"
        if service.runs_sagas and _is_within_an_application(environment):
            given = {"secrets": unshared_secrets()}
            told += " within an application; served by itself it needs SAGABOX_SECRETS"
        try:
            load(service.settings_model(), **given).keyring()
        except OutboxError as error:
            yield problem(_AREA, service.name, error.problem, error.next_step)
        else:
            yield ok(_AREA, service.name, told)


def _is_within_an_application(environment: Mapping[str, str]) -> bool:
    """Whether these variables fit an orchestrator that reaches its peers within the process of an
    application, and no other: its tables have a prefix there, and it signs nothing."""
    others = ("SAGABOX_PEERS", "SAGABOX_PARTICIPANTS", "SAGABOX_SECRETS")
    return bool(environment.get("SAGABOX_TABLE_PREFIX")) and not any(map(environment.get, others))
