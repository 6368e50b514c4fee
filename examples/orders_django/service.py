"""The service, on an engine of its own: its relay, and its handlers with sessions of SQLAlchemy."""

from django.conf import settings
from sqlalchemy import column, create_engine, table, update
from sqlalchemy.orm import Session

import outbox
from orders_django.contract import CancelOrder, OrderPlaced

ROUTES = {OrderPlaced: ["mail"]}
service = outbox.Service("orders", create_engine(settings.DATABASE), routes=ROUTES)

orders = table("orders_django_order", column("id"), column("status"), column("cancellations"))


@service.on(CancelOrder)
def cancel(session: Session, command: CancelOrder, _: outbox.Context) -> outbox.Refused | None:
    found = session.scalar(
        update(orders)
        .where(orders.c.id == command.order_id)
        .values(status="cancelled", cancellations=orders.c.cancellations + 1)
        .returning(orders.c.id)
    )
    if found is None:
        return outbox.Refused("unknown-order", f"there is no order {command.order_id}")
    return None
