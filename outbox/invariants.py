"""What must hold between services: who keeps which entities, and who refers to them, and how.

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

What is declared must hold whenever nothing is under way: no message, and no saga on the entity. A
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
    """Why there is no entity for what refers to it."""

    GONE = "gone"
    """It was there; its tombstone still is."""
    UNKNOWN = "unknown"
    """Who keeps such entities knows of none."""


@dataclass(frozen=True)
class Repair:
    """The saga that puts it right: its name, and the fields of its input that take the id of the
    entity and, where `trace` is given, that of the saga that left a trace.

    It is started by people's leave, and may be started where nothing is wrong any more: so it looks
    for itself, and does nothing then. Its key is the id of the entity.
    """

    saga: str
    _: KW_ONLY
    id: str
    trace: str | None = None


@dataclass(frozen=True)
class Wrong:
    """What is wrong where the rule does not hold: `code` is a short stable word for programs,
    `should` says to people what should be, and is not. Without a `repair` a person has to decide.

    Raises InvalidInvariant.
    """

    code: str
    should: str
    repair: Repair | None = None

    def __post_init__(self) -> None:
        if not _WORD.fullmatch(self.code):
            raise InvalidInvariant(
                f"{self.code!r} is no code of a divergence",
                next_step="write small letters, digits and dashes, as in shipment-of-no-order",
            )


@dataclass(frozen=True)
class Keeps:
    """This service decides which entities of this kind there are.

    `gone` is true of tombstones: nothing may refer to them any more. `version` is the number that
    grows with each change that others are told of.
    """

    entity: str
    _: KW_ONLY
    id: Column
    gone: Condition | None = None
    version: Column | None = None


@dataclass(frozen=True)
class Refers:
    """Each of these rows belongs to an entity that is there; a row whose `id` is NULL to none.

    `where` says which rows; all, unless it is given. `only` restricts it to entities that are
    missing for that reason. `by` is the saga that wrote a row, if one did.
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
        """The kind of entity that it is about."""
        return self.to


@dataclass(frozen=True)
class Mirrors:
    """Each entity that is there has a row here that knows of it.

    `where` says which rows do. `fit` is true of rows that are as they should be for an entity that
    is there, and `version` is that of the entity when it was last heard of. `unfit` and `behind`
    are what is wrong where these do not hold; each needs its expression.
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
        """The kind of entity that it is about."""
        return self.of


@dataclass(frozen=True)
class Holds:
    """A saga holds an entity that is there only while it lives: `saga` has its id, or NULL."""

    what: str
    _: KW_ONLY
    id: Column
    saga: Column
    wrong: Wrong
    where: Condition | None = None

    @property
    def entity(self) -> str:
        """The kind of entity that it is about."""
        return self.what


Rule: TypeAlias = Refers | Mirrors | Holds
"""What must hold of the rows of one service about entities of one kind."""


@dataclass(frozen=True)
class Invariants:
    """All that one service declares. `service` is the name that it has as a participant."""

    service: str
    _: KW_ONLY
    keeps: Sequence[Keeps] = ()
    rules: Sequence[Rule] = ()
