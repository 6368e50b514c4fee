"""The history of the airline: `alembic -c flight/alembic.ini upgrade head`."""
