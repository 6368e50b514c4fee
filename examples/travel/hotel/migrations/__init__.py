"""The history of the hotel: `alembic -c hotel/alembic.ini upgrade head`."""
