"""The rules that services declare, by kind of entity: its keeper, and what must hold of it."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from orchestrator.cli.audit.columns import table_of
from orchestrator.cli.processes import bundle
from orchestrator.cli.terminal.errors import CommandError
from orchestrator.discovery import named
from outbox.chassis.settings import InvalidSettings
from outbox.invariants import Holds, Invariants, Keeps, Refers, Rule

VARIABLE = "SAGABOX_AUDIT"
"""The setting that names the declarations, as module:attribute,..."""

OF_THE_BLOG = "articles.invariants:INVARIANTS,comments.invariants:INVARIANTS"
"""What is compared where nothing else is named."""
_OF_THE_BLOG = frozenset({"articles", "comments"})

_EXAMPLE = "shop.shipping.invariants:INVARIANTS"


@dataclass(frozen=True)
class Declared:
    """One rule, and the service in whose database its rows are."""

    service: str
    rule: Rule


@dataclass(frozen=True)
class Subject:
    """One kind of entity: the service `keeper` keeps them, and `rules` must hold of them."""

    entity: str
    keeper: str
    keeps: Keeps
    rules: Sequence[Declared]


@dataclass(frozen=True)
class Ruleset:
    """All rules of an audit. `services` are those whose databases are read."""

    services: Sequence[str]
    subjects: Sequence[Subject]

    @property
    def names_sagas(self) -> bool:
        """Whether rows name sagas, so that the audit must know how these stand."""
        return any(
            isinstance(it.rule, Holds) or (isinstance(it.rule, Refers) and it.rule.by is not None)
            for subject in self.subjects
            for it in subject.rules
        )


def load(named_on_command_line: Sequence[str], inboxes: Sequence[str] = ()) -> Ruleset:
    """The declarations that are named there, else in SAGABOX_AUDIT, else those of the blog. The
    services `inboxes` need none, since their inboxes are compared in any case; where they alone are
    named, and not all are the blog's, nothing else is compared.

    Raises CommandError, and InvalidSettings where a named object is not there.
    """
    is_named = bool(named_on_command_line or os.environ.get(VARIABLE, "").strip())
    if not is_named and not _OF_THE_BLOG.issuperset(inboxes):
        return Ruleset(inboxes, [])
    found = _declared(named_on_command_line)
    others = [it for it in inboxes if it not in found.services]
    return replace(found, services=[*found.services, *others])


def _declared(named_on_command_line: Sequence[str]) -> Ruleset:
    option = ",".join(named_on_command_line)
    setting = os.environ.get(VARIABLE, "").strip()
    if option:
        found = named(option, by="--rules names", kind=Invariants, example=_EXAMPLE)
    elif setting:
        found = named(setting, by=f"{VARIABLE} names", kind=Invariants, example=_EXAMPLE)
    else:
        return of_the_blog()
    return together(found)


def of_the_blog() -> Ruleset:
    """What the blog's services declare."""
    bundle.put_on_path()
    return together(named(OF_THE_BLOG, by="the audit names", kind=Invariants, example=_EXAMPLE))


def together(declarations: Iterable[Invariants]) -> Ruleset:
    """The rules of all services, by kind of entity. Raises CommandError where they do not fit
    together."""
    given = list(declarations)
    services = [it.service for it in given]
    for name in services:
        if services.count(name) > 1:
            raise _unfit(
                f"{services.count(name)} declarations are of the service {name!r}",
                "one service has one database, and declares once what it holds",
                "put its rules into one Invariants",
            )
    kept = [(declared.service, keeps) for declared in given for keeps in declared.keeps]
    rules = [Declared(it.service, rule) for it in given for rule in it.rules]
    entities = [keeps.entity for _, keeps in kept]
    for service, keeps in kept:
        if entities.count(keeps.entity) > 1:
            keepers = [name for name, it in kept if it.entity == keeps.entity]
            raise _unfit(
                f"{' and '.join(keepers)} both keep {keeps.entity!r}",
                "one service decides which entities of a kind there are",
                "let the others refer to it: Refers or Mirrors",
            )
        _require_column(service, keeps.id)
    for it in rules:
        if it.rule.entity not in entities:
            raise _unfit(
                f"{it.service} declares a rule about {it.rule.entity!r}, which no service keeps",
                f"these are kept: {', '.join(sorted(entities)) or 'none'}",
                f"name the declaration with Keeps({it.rule.entity!r}, ...) too: --rules, "
                f"or {VARIABLE}",
            )
        _require_column(it.service, it.rule.id)
    if not rules:
        raise _unfit(
            "there is nothing to compare",
            "no declaration has a rule",
            f"name one that has: --rules {_EXAMPLE}, or {VARIABLE}",
        )
    subjects = [
        Subject(
            keeps.entity, service, keeps, [it for it in rules if it.rule.entity == keeps.entity]
        )
        for service, keeps in kept
    ]
    return Ruleset(services, subjects)


def _require_column(service: str, place: object) -> None:
    try:
        table_of(place)  # type: ignore[arg-type] # what a user wrote is looked at, not believed
    except Exception as error:
        raise InvalidSettings(
            f"{service} declares an id= that is no column of a table ({place!r:.100})",
            next_step="give the column itself, as in id=Shipment.order_id",
        ) from error


def _unfit(happened: str, why: str, next_step: str) -> CommandError:
    return CommandError(f"the declarations do not fit together: {happened}", why, next_step)
