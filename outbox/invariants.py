"""Invariants between services: which service keeps which entities, and how others refer to them.

A service declares its side as a value, beside its tables, and names no other service's code:

    INVARIANTS = Invariants(
        "shipping",
        rules=[
            Refers(
                "order",
                id=Shipment.order_id,
                wrong=Wrong("shipment-of-no-order", "every shipment belongs to an order"),
            ),
        ],
    )

The service that has the orders says so with `keeps=[Keeps("order", id=Order.id)]`. `sagabox audit`
takes the declarations of all services, and compares their databases while they are in use.

The declarations must hold whenever nothing is under way: no message, and no saga on the entity. A
saga is on an entity if the entity's id is the saga's key, or if one of the columns `saga` or `by`
below names it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any, TypeAlias

from outbox.errors import InvalidInvariant

if TYPE_CHECKING:
    from sqlalchemy import SQLColumnExpression

    Column: TypeAlias = SQLColumnExpression[Any]
    Condition: TypeAlias = SQLColumnExpression[bool]

_WORD = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")


class Missing(Enum):
    """The reason why the entity that a row refers to is missing."""

    GONE = "gone"
    """It was there; its tombstone still is."""
    UNKNOWN = "unknown"
    """The service that keeps such entities does not know it."""


@dataclass(frozen=True)
class Repair:
    """The saga that repairs a broken rule: its name, and the fields of its input that take the id
    of the entity and, where `trace` is given, that of the saga that left the trace.

    It is started with an operator's consent, perhaps when nothing is wrong any more: so it checks
    for itself, and does nothing then. Its key is the id of the entity.
    """

    saga: str
    _: KW_ONLY
    id: str
    trace: str | None = None


@dataclass(frozen=True)
class Wrong:
    """The divergence where the rule does not hold: `code` is a short stable word for programs,
    `should` tells people what should hold. Without a `repair` an operator has to decide; `decide`
    says what, and by which command each choice is made.

    Raises InvalidInvariant.
    """

    code: str
    should: str
    repair: Repair | None = None
    decide: str = ""

    def __post_init__(self) -> None:
        if not _WORD.fullmatch(self.code):
            raise InvalidInvariant(
                f"{self.code!r} is no code of a divergence",
                next_step="write small letters, digits and dashes, as in shipment-of-no-order",
            )


@dataclass(frozen=True)
class Keeps:
    """The rule that this service decides which entities of this kind there are.

    `gone` is true of tombstones, to which nothing may refer any more. `version` is the number that
    grows with each published change.
    """

    entity: str
    _: KW_ONLY
    id: Column
    gone: Condition | None = None
    version: Column | None = None


@dataclass(frozen=True)
class Refers:
    """The rule that each of these rows belongs to an entity that is there; a row whose `id` is NULL
    belongs to none.

    `where` selects the rows, by default all. `only` restricts the rule to entities missing for that
    reason. `by` is the saga that wrote a row, if any.
    """

    to: str
    _: KW_ONLY
    id: Column
    wrong: Wrong
    where: Condition | None = None
    only: Missing | None = None
    by: Column | None = None

    @property
    def entity(self) -> str:
        """The kind of entity that the rule is about."""
        return self.to


@dataclass(frozen=True)
class Mirrors:
    """The rule that each entity that is there has a row here that knows of it.

    `where` selects these rows. `fit` is true of rows that are right for an entity that is there,
    and `version` is the entity's version in the last event that came. `unfit` and `behind` are the
    divergences where these do not hold; each needs its expression.
    """

    of: str
    _: KW_ONLY
    id: Column
    missing: Wrong
    where: Condition | None = None
    fit: Condition | None = None
    unfit: Wrong | None = None
    version: Column | None = None
    behind: Wrong | None = None

    def __post_init__(self) -> None:
        for name, given, other in (
            ("fit", self.fit is None, self.unfit is None),
            ("version", self.version is None, self.behind is None),
        ):
            if given is not other:
                wrong = "unfit" if name == "fit" else "behind"
                raise InvalidInvariant(
                    f"a mirror of {self.of!r} has one of {name}= and {wrong}= without the other",
                    next_step=f"give both: what is compared ({name}), and what is wrong ({wrong})",
                )

    @property
    def entity(self) -> str:
        """The kind of entity that the rule is about."""
        return self.of


@dataclass(frozen=True)
class Holds:
    """The rule that only a live saga holds an entity that is there: `saga` has its id, or NULL."""

    what: str
    _: KW_ONLY
    id: Column
    saga: Column
    wrong: Wrong
    where: Condition | None = None

    @property
    def entity(self) -> str:
        """The kind of entity that the rule is about."""
        return self.what


Rule: TypeAlias = Refers | Mirrors | Holds
"""A rule about the rows of one service for entities of one kind."""


@dataclass(frozen=True)
class Invariants:
    """The invariants of one service. `service` is its name as a participant."""

    service: str
    _: KW_ONLY
    keeps: Sequence[Keeps] = ()
    rules: Sequence[Rule] = ()
