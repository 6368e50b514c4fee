"""`sagabox outbox redrive`, `drop` and `purge`."""

from __future__ import annotations

from typing import Annotated

import typer

from orchestrator.cli.outbox.opened import selected
from orchestrator.cli.outbox.options import (
    All,
    DatabaseUrl,
    Destination,
    DryRun,
    Filters,
    Ids,
    Key,
    NewerThan,
    OlderThan,
    ServiceName,
    Type,
)
from orchestrator.cli.outbox.telling import print_changed
from orchestrator.cli.runs.operators import user_name
from orchestrator.cli.terminal.errors import CommandError
from orchestrator.cli.terminal.output import Json


def redrive(
    ids: Ids = None,
    service: ServiceName = None,
    database: DatabaseUrl = None,
    destination: Destination = None,
    type_: Type = None,
    key: Key = None,
    older_than: OlderThan = None,
    newer_than: NewerThan = None,
    all_: All = False,
    as_new: Annotated[
        bool,
        typer.Option(
            "--as-new",
            help="Dead letters alone, under new ids, and due now: the only way for what the "
            "receiver called too-old. It takes them for new messages: what took effect before "
            "takes effect again.",
        ),
    ] = False,
    dry_run: DryRun = False,
    json_: Json = False,
) -> None:
    """Send dead letters again, and free the keys that messages block.

    By its id, a message whose key rests is tried at once, too. Commands of sagas stay: their step
    is retried instead.
    """
    filters = Filters(destination, type_, key, older_than, newer_than, ids or ())

    from outbox.errors import BelongsToSaga, ForgottenByReceiver

    try:
        _, done = selected(
            service,
            database,
            filters,
            lambda of, chosen, _: of.redrive(
                chosen, as_new=as_new, dry_run=dry_run, everything=all_
            ),
        )
    except BelongsToSaga as error:
        raise CommandError(
            error.problem, "its step is retried instead", "sagabox retry SAGA --reason REASON"
        ) from error
    except ForgottenByReceiver as error:
        raise CommandError(
            error.problem,
            "whether it took effect is to be found out there",
            "where it did not: sagabox outbox redrive ID --as-new",
        ) from error
    print_changed(done, "sent again", json_)


def drop(
    ids: Ids = None,
    service: ServiceName = None,
    database: DatabaseUrl = None,
    destination: Destination = None,
    type_: Type = None,
    key: Key = None,
    older_than: OlderThan = None,
    newer_than: NewerThan = None,
    all_: All = False,
    bury: Annotated[
        bool,
        typer.Option(
            "--bury",
            help="Make dead letters of messages that hold their keys, in place of deleting them; "
            "dead letters stay.",
        ),
    ] = False,
    actor: Annotated[
        str | None,
        typer.Option(metavar="A", help="With --bury, who does it; otherwise your user name."),
    ] = None,
    dry_run: DryRun = False,
    json_: Json = False,
) -> None:
    """Delete for good dead letters, and messages that block their keys.

    The later messages of these keys go on. By its id, a message whose key rests can be deleted,
    too, unless it is the command of a saga: its run waits for the answer.
    """
    filters = Filters(destination, type_, key, older_than, newer_than, ids or ())
    by = (actor or user_name()) if bury else None

    _, done = selected(
        service,
        database,
        filters,
        lambda of, chosen, _: of.drop(chosen, buried_by=by, dry_run=dry_run, everything=all_),
    )
    print_changed(done, "buried" if bury else "deleted", json_)


def purge(
    older_than: OlderThan,
    service: ServiceName = None,
    database: DatabaseUrl = None,
    destination: Destination = None,
    type_: Type = None,
    key: Key = None,
    dry_run: DryRun = False,
    json_: Json = False,
) -> None:
    """Delete for good the dead letters that were buried before that."""
    filters = Filters(destination, type_, key, older_than)

    _, done = selected(
        service, database, filters, lambda of, chosen, _: of.purge(chosen, dry_run=dry_run)
    )
    print_changed(done, "deleted", json_)
