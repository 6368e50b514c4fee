"""`sagabox retention`: one round of retention by hand, or what it would remove."""

from __future__ import annotations

from dataclasses import asdict
from datetime import timedelta
from typing import TYPE_CHECKING, Annotated, Any

import typer

from orchestrator.cli.services.own_database import OwnDatabase, opened_orchestrator
from orchestrator.cli.terminal.errors import CommandError
from orchestrator.cli.terminal.fitting import Column
from orchestrator.cli.terminal.output import Json, print_json, print_line, print_table
from orchestrator.cli.terminal.times import with_age

if TYPE_CHECKING:
    from orchestrator.retention.archive.archive import Archive
    from orchestrator.retention.plan import Planned
    from orchestrator.retention.policy import Policy
    from orchestrator.retention.rounds.means import Tally

_COLUMNS = (Column("what", least=10), Column("status"), Column("age"), Column("count"), "oldest")
_WORDS = {
    "runs": "runs",
    "histories": "histories before their runs",
    "lines": "lines of history",
    "aliases": "aliases",
    "letters": "dead letters",
    "keys": "idempotency keys",
    "refused": "refused starts",
    "tombstones": "tombstones of runs",
}


def retention(
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only tell what would be removed.")
    ] = False,
    policy: Annotated[
        str | None,
        typer.Option(metavar="AGES", help="The policy; otherwise SAGABOX_RETENTION."),
    ] = None,
    archive: Annotated[
        str | None,
        typer.Option(
            metavar="PLACE",
            help="The archive; otherwise SAGABOX_ARCHIVE. With none, all goes for good.",
        ),
    ] = None,
    format: Annotated[
        str | None,
        typer.Option(metavar="FORMAT", help="jsonl or parquet; otherwise SAGABOX_ARCHIVE_FORMAT."),
    ] = None,
    json_: Json = False,
    database: OwnDatabase = None,
) -> None:
    """Archive and remove what ended long ago, by way of the orchestrator's database."""
    import asyncio
    import os

    chosen = _policy(policy)
    if dry_run:
        _print_plan(asyncio.run(_planned(database, chosen)), json_)
        return
    from orchestrator.retention.archive.archive import NONE

    place = os.environ.get("SAGABOX_ARCHIVE", "") if archive is None else archive
    made = _archive(place, format)
    done = asyncio.run(_done(database, chosen, made, for_good=place == NONE))
    if done is None:
        raise CommandError(
            "nothing was removed",
            "another process of this orchestrator removes what is old just now",
            "sagabox retention, once that round has ended: it takes minutes",
        )
    _print_done(done, json_)


def _policy(given: str | None) -> Policy:
    import os

    from orchestrator.retention.policy import Policy

    text = os.environ.get("SAGABOX_RETENTION", "") if given is None else given
    policy = Policy.parse(text)
    if policy is None:
        raise CommandError(
            "it is not known what may be removed",
            "neither --policy was given nor SAGABOX_RETENTION set, so everything is kept for ever",
            "sagabox retention --dry-run --policy on",
        )
    return policy


def _archive(place: str, format: str | None) -> Archive | None:
    import os

    from orchestrator.retention.archive.archive import archive_at

    form = format or os.environ.get("SAGABOX_ARCHIVE_FORMAT") or "jsonl"
    return archive_at(place, form)


async def _planned(database: str | None, policy: Policy) -> list[Planned]:
    from orchestrator.retention.plan import plan
    from outbox.clock import SystemClock

    async with opened_orchestrator("retention", database) as opened:
        return await plan(opened, policy, SystemClock())


async def _done(
    database: str | None, policy: Policy, archive: Archive | None, *, for_good: bool
) -> Tally | None:
    import os

    from orchestrator.retention.worker import Retention
    from outbox.clock import SystemClock
    from outbox.ids import Ids

    clock = SystemClock()
    async with opened_orchestrator("retention", database) as opened:
        retention = Retention(
            opened, policy, archive, for_good=for_good, clock=clock, ids=Ids(clock, os.urandom)
        )
        return await retention.whole_round()


def _print_plan(found: list[Planned], json_: bool) -> None:
    from orchestrator.retention.plan import COUNTED_UP_TO
    from outbox.clock import SystemClock

    if json_:
        print_json({"items": [_as_json(it) for it in found]})
        return
    now = SystemClock().now()
    print_table(
        _COLUMNS,
        [
            (
                it.what,
                it.status or "",
                _age(it.age),
                f"{it.count:,}{'+' if it.count >= COUNTED_UP_TO else ''}",
                with_age(None if it.oldest is None else it.oldest.isoformat(), now) or "",
            )
            for it in found
        ],
    )
    print_line("nothing was removed: this is what a round would remove now")


def _as_json(planned: Planned) -> dict[str, Any]:
    oldest = None if planned.oldest is None else planned.oldest.isoformat()
    seconds = None if planned.age is None else planned.age.total_seconds()
    return {**asdict(planned), "age": seconds, "oldest": oldest}


def _age(age: timedelta | None) -> str:
    if age is None:
        return "forever"
    return f"{age.days}d" if not age.seconds else f"{age // timedelta(hours=1)}h"


def _print_done(done: Tally, json_: bool) -> None:
    archived, removed = dict(done.archived), {name: done.removed[name] for name in _WORDS}
    if json_:
        print_json({"archived": archived, "removed": removed})
        return
    print_table(
        ("what", "removed", "archived"),
        [
            (words, f"{removed[name]:,}", f"{archived.get(name, 0):,}")
            for name, words in _WORDS.items()
        ],
    )
