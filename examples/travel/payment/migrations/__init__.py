"""The history of the payment service: `alembic -c payment/alembic.ini upgrade head`."""
