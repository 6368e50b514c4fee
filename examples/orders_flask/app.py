"""Orders in Flask: `flask --app orders_flask.app create-tables`, and then
`gunicorn --config python:orders_flask.gunicorn_hooks orders_flask.app:app`."""

import os
from typing import Any

from flask import Flask, abort, request
from sqlalchemy import create_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

import outbox
from orders_flask.contract import CancelOrder, OrderPlaced
from outbox import tables

engine = create_engine(os.environ["ORDERS_DATABASE_URL"])
service = outbox.Service("orders", engine, routes={OrderPlaced: ["mail"]})

app = Flask("orders")
running = service.wsgi(app.wsgi_app)
app.wsgi_app = running  # type: ignore[method-assign]  # as Flask has it for middleware


class Base(DeclarativeBase):
    pass


class Order(Base):
    __tablename__ = "orders"
    id: Mapped[str] = mapped_column(primary_key=True)
    item: Mapped[str]
    status: Mapped[str] = mapped_column(default="placed")
    cancellations: Mapped[int] = mapped_column(default=0)


@service.on(CancelOrder)
def cancel(session: Session, command: CancelOrder, _: outbox.Context) -> outbox.Refused | None:
    order = session.get(Order, command.order_id, with_for_update=True)
    if order is None:
        return outbox.Refused("unknown-order", f"there is no order {command.order_id}")
    order.status = "cancelled"
    order.cancellations += 1
    return None


@app.post("/orders")
def place() -> tuple[dict[str, str], int]:
    order = Order(id=service.new_id(), item=request.get_json()["item"])
    placed = OrderPlaced(order.id, order.item)
    with service.sessions.begin() as session:
        session.add(order)
        outbox.add(session, placed)
    return {"id": placed.order_id}, 202


@app.get("/orders/<order_id>")
def get_order(order_id: str) -> dict[str, Any]:
    with service.sessions() as session:
        order = session.get(Order, order_id)
    if order is None:
        abort(404)
    return {"id": order_id, "status": order.status, "cancellations": order.cancellations}


@app.cli.command("create-tables")
def create_tables() -> None:
    """What a real service does by migrations: see outbox.schema."""
    tables.metadata.create_all(engine)
    Base.metadata.create_all(engine)
