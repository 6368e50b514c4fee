"""The history of the shop: `alembic -c small/alembic.ini upgrade head`."""
