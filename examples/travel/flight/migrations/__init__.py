"""The history of the flight service: `alembic -c flight/alembic.ini upgrade head`."""
