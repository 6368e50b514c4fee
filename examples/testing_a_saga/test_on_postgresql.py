"""Where services run on PostgreSQL: `TEST_DATABASE_URL=... pytest test_on_postgresql.py`."""

from test_every_way import prepare
from trips import Base, Trip, bank, book_trip, hotel

from orchestrator.testing import check_saga


def test_a_trip_is_booked_or_nothing_happened_there_too(saga_database: str | None) -> None:
    check_saga(
        book_trip,
        Trip("Rome", card="1234"),
        participants={"hotel": hotel, "bank": bank},
        schema=Base.metadata,
        prepare=prepare,
        only="every message arrives",
        database=saga_database,
    )
