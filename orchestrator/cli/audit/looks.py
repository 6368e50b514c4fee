"""The audit's two looks at the databases.

The databases are read at different moments, so a difference may only mean that a message is on its
way. The audit therefore looks at each difference twice, and in between waits until every message
that waited at the first look has left. Since a message may make its receiver send another, it waits
so once for each service that a chain of events can pass. Entities that a saga is at work on in one
of the two looks are left out; the saga itself sees to them.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum

from orchestrator.cli.audit import reading
from orchestrator.cli.audit.columns import table_of
from orchestrator.cli.audit.databases import Databases
from orchestrator.cli.audit.divergences import Divergence, Facts, divergences
from orchestrator.cli.audit.lost_reading import RunFindings
from orchestrator.cli.audit.rules import Ruleset, Subject

MAX_SUSPECTS = 10_000
"""How many entities of a kind are looked at a second time."""

_LOOK = 0.2  # seconds between two looks at what rests


class Agreement(Enum):
    """The result of an audit."""

    AGREE = "agree"
    """Nothing is wrong."""
    DIVERGE = "diverge"
    """A rule is broken, and will not mend itself."""
    INCONCLUSIVE = "inconclusive"
    """A rule looks broken, and may mend itself when the resting messages arrive."""


@dataclass(frozen=True)
class Findings:
    """The findings of an audit: what was compared, and the divergences.

    `compared` counts the rows of each table. `suspects` counts the entities that looked wrong at
    first, `followed` those of them that were looked at again; `at_work` those that looked wrong and
    were left to a saga. `resting` counts the messages, by database, that had not left in time.
    `of_runs` is there where runs were compared with inboxes, too.
    """

    services: Sequence[str]
    compared: Mapping[str, int]
    suspects: int
    followed: int
    at_work: int
    divergences: Sequence[Divergence]
    resting: Mapping[str, int]
    of_runs: RunFindings | None = None

    @property
    def agreement(self) -> Agreement:
        """The result that the findings come to."""
        if self.divergences:
            return Agreement.INCONCLUSIVE if self.resting else Agreement.DIVERGE
        if self.of_runs is not None and self.of_runs.lost:
            return Agreement.DIVERGE
        return Agreement.AGREE if self.followed == self.suspects else Agreement.INCONCLUSIVE


@dataclass
class _Counts:
    compared: Counter[str] = field(default_factory=Counter)
    suspects: int = 0
    followed: int = 0
    at_work: int = 0


async def compare(
    databases: Databases,
    rules: Ruleset,
    *,
    timeout: float,
    pause: Callable[[float], Awaitable[object]] = asyncio.sleep,
) -> Findings:
    """Look twice; messages that wait at the first look have `timeout` seconds to leave.

    Raises CommandError where a database fails.
    """
    await reading.require_tables(databases, rules.subjects)
    counts = _Counts(Counter(dict.fromkeys(_counted(rules).values(), 0)))
    first: dict[tuple[str, str], frozenset[Divergence]] = {}
    for subject in rules.subjects:
        first |= await _suspects(databases, rules, subject, counts)
    rest: Mapping[str, int] = {}
    held: list[Divergence] = []
    if first:
        hops = max(1, len(rules.services) - 1)
        rest = await _until_arrived(databases, hops, timeout, pause)
        for subject in rules.subjects:
            suspected = sorted(id_ for entity, id_ in first if entity == subject.entity)
            for ids in reading.chunks(suspected, reading.CHUNK):
                facts = await reading.read_facts(databases, subject, ids)
                for id_, wrong in (await _wrong(databases, subject, facts, counts)).items():
                    held += first[subject.entity, id_] & wrong
    return Findings(
        services=rules.services,
        compared=counts.compared,
        suspects=counts.suspects,
        followed=counts.followed,
        at_work=counts.at_work,
        divergences=sorted(held, key=lambda it: it.place),
        resting=rest,
    )


async def _suspects(
    databases: Databases, rules: Ruleset, subject: Subject, counts: _Counts
) -> dict[tuple[str, str], frozenset[Divergence]]:
    """The divergences, at the first look, of entities of this kind, up to so many entities."""
    found: dict[tuple[str, str], frozenset[Divergence]] = {}
    counted = _counted(rules)
    async for chunk in reading.everything(databases, subject):
        for ids in reading.chunks(chunk, reading.CHUNK):
            facts = await reading.read_facts(databases, subject, ids)
            _count(counts, counted, subject, facts)
            for id_, wrong in (await _wrong(databases, subject, facts, counts)).items():
                # One that came or went meanwhile is met on both sides.
                is_new = (subject.entity, id_) not in found
                counts.suspects += is_new
                if len(found) < MAX_SUSPECTS or not is_new:
                    found[subject.entity, id_] = wrong
    counts.followed += len(found)
    return found


async def _wrong(
    databases: Databases, subject: Subject, facts: Sequence[Facts], counts: _Counts
) -> Mapping[str, frozenset[Divergence]]:
    """The divergences of the entities that no saga is at work on."""
    rules = [it.rule for it in subject.rules]
    wrong = {it.id: frozenset(divergences(subject.entity, rules, it)) for it in facts}
    suspects = [it for it in facts if wrong[it.id]]
    if not suspects:
        return {}
    busy = await reading.at_work(databases, suspects)
    counts.at_work += len(busy)
    return {it.id: wrong[it.id] for it in suspects if it.id not in busy}


async def _until_arrived(
    databases: Databases,
    hops: int,
    timeout: float,
    pause: Callable[[float], Awaitable[object]],
) -> Mapping[str, int]:
    """Wait until every message that waits now has left, and so many times until those that followed
    from it have left. Returns those that have not when the time is up."""
    loop = asyncio.get_running_loop()
    end = loop.time() + timeout
    for _ in range(hops):
        marked = await reading.marks(databases)
        while rest := await reading.resting(databases, marked):
            if loop.time() >= end:
                return rest
            await pause(_LOOK)
    return {}


_Place = tuple[str, int]
"""A kind of entity, and a place among its rules; -1 is the service that keeps it."""


def _counted(rules: Ruleset) -> Mapping[_Place, str]:
    """The place where each table's rows are counted, once, since all of them are read there; and
    their name."""
    found: dict[tuple[str, str], _Place] = {}
    for subject in rules.subjects:
        found.setdefault((subject.keeper, table_of(subject.keeps.id)), (subject.entity, -1))
    for subject in rules.subjects:
        places = list(enumerate(subject.rules))
        for number, it in sorted(places, key=lambda it: it[1].rule.where is not None):
            found.setdefault((it.service, table_of(it.rule.id)), (subject.entity, number))
    names = Counter(table for _, table in found)
    return {
        place: table if names[table] == 1 else f"{service}.{table}"
        for (service, table), place in found.items()
    }


def _count(
    counts: _Counts, counted: Mapping[_Place, str], subject: Subject, facts: Iterable[Facts]
) -> None:
    for it in facts:
        if it.kept is not None and (subject.entity, -1) in counted:
            counts.compared[counted[subject.entity, -1]] += 1
        for number, rows in enumerate(it.rows):
            if (subject.entity, number) in counted:
                name = counted[subject.entity, number]
                counts.compared[name] += sum(row.number for row in rows)
