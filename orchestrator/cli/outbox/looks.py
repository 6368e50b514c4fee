"""`sagabox outbox status`, `dead` and `held`: they only read."""

from __future__ import annotations

from typing import Any

from orchestrator.cli.outbox.opened import Opened, selected, within
from orchestrator.cli.outbox.options import (
    Cursor,
    DatabaseUrl,
    Destination,
    Filters,
    Key,
    Limit,
    NewerThan,
    OlderThan,
    ServiceName,
    Type,
)
from orchestrator.cli.outbox.telling import as_items, print_page
from orchestrator.cli.terminal.fitting import Column
from orchestrator.cli.terminal.output import (
    Json,
    print_json,
    print_line,
    print_paragraph,
    print_table,
)
from orchestrator.cli.terminal.times import ago

_DESTINATIONS = (
    Column("destination", least=11),
    *map(Column, ("unsent", "oldest", "held", "blocked", "dead", "later")),
)
_LETTERS = (Column("id"), Column("for", least=7), Column("attempts"), Column("died"))
_HELD = (
    Column("key", least=7),
    Column("for", least=7),
    *map(Column, ("attempts", "next", "behind")),
)


def status(service: ServiceName = None, database: DatabaseUrl = None, json_: Json = False) -> None:
    """Show what waits for each destination, and who sends."""

    async def work(of: Opened) -> tuple[str, Any]:
        from outbox.chassis.endpoints.overview import overview

        it = of.service
        return it.name, await overview(it.engine, it.tables, it.clock, it.name, it.reached)

    name, found = within(service, database, work)
    shown = found.as_json()
    if json_:
        print_json({"service": name, **shown})
        return
    items = shown["destinations"]
    print_line(f"the outbox of {name}")
    print_table(
        _DESTINATIONS,
        [
            (
                it["destination"],
                it["unsent"],
                ago(it["oldest"], found.now),
                it["held_keys"],
                it["blocked_keys"],
                it["dead_letters"],
                it["scheduled"],
            )
            for it in items
        ],
        [
            [("paused", f"{ago(it['paused_since'], found.now)}: {it['paused_reason']}")]
            if it["paused_since"]
            else []
            for it in items
        ],
    )
    if not items:
        print_line("nothing waits, and no destination is known")
    for held in shown["received"]:
        if held["count"]:
            print_line(f"received by a broker and {held['state']}: {held['count']}")
    for sender in shown["senders"]:
        print_paragraph(f"sent by {sender['owner']}, with {sender['leases']} leases")
    if not shown["senders"]:
        print_line("no relay runs: nothing is sent")


def dead(
    service: ServiceName = None,
    database: DatabaseUrl = None,
    destination: Destination = None,
    type_: Type = None,
    key: Key = None,
    older_than: OlderThan = None,
    newer_than: NewerThan = None,
    limit: Limit = 50,
    cursor: Cursor = None,
    json_: Json = False,
) -> None:
    """List dead letters, the last buried first."""
    filters = Filters(destination, type_, key, older_than, newer_than)

    now, page = selected(
        service,
        database,
        filters,
        lambda of, chosen, _: of.dead(chosen, limit=limit, cursor=cursor),
    )
    print_page(
        as_items(page.items),
        page.next_cursor,
        json_,
        "no dead letter",
        _LETTERS,
        lambda it: (it["id"], it["destination"], it["attempts"], ago(it["died_at"], now)),
        lambda it: [(name, it[name]) for name in ("type", "key", "saga", "reason")],
    )


def held(
    service: ServiceName = None,
    database: DatabaseUrl = None,
    destination: Destination = None,
    type_: Type = None,
    key: Key = None,
    older_than: OlderThan = None,
    newer_than: NewerThan = None,
    limit: Limit = 50,
    cursor: Cursor = None,
    json_: Json = False,
) -> None:
    """List the keys that wait behind a message that failed.

    The filters are for that message.
    """
    filters = Filters(destination, type_, key, older_than, newer_than)

    now, (page, behind) = selected(
        service,
        database,
        filters,
        lambda of, chosen, _: of.held(chosen, limit=limit, cursor=cursor),
    )
    shown = as_items(page.items)
    print_page(
        [it | {"behind": count} for it, count in zip(shown, behind, strict=True)],
        page.next_cursor,
        json_,
        "no key waits",
        _HELD,
        lambda it: (
            it["key"],
            it["destination"],
            it["attempts"],
            "blocked" if it["blocked"] else ago(it["next_at"], now),
            it["behind"],
        ),
        lambda it: [("message", it["id"]), ("type", it["type"]), ("reason", it["last_error"])],
    )
