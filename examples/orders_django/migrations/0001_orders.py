"""The tables of orders, and those of the library in the same history."""

from typing import Any

from alembic.operations import Operations
from alembic.runtime.migration import MigrationContext
from django.db import migrations, models

import outbox.schema


def upgrade(_apps: Any, _editor: Any) -> None:
    from orders_django.joining import joined

    with joined() as connection:
        outbox.schema.upgrade(Operations(MigrationContext.configure(connection)), to=5)


def downgrade(_apps: Any, _editor: Any) -> None:
    from orders_django.joining import joined

    with joined() as connection:
        op = Operations(MigrationContext.configure(connection))
        outbox.schema.downgrade(op, to=0, start=5)


class Migration(migrations.Migration):
    operations = [
        migrations.RunPython(upgrade, downgrade),
        migrations.CreateModel(
            "Order",
            [
                ("id", models.CharField(primary_key=True, max_length=36)),
                ("item", models.CharField(max_length=100)),
                ("status", models.CharField(max_length=20, default="placed")),
                ("cancellations", models.IntegerField(default=0)),
            ],
        ),
    ]
