"""Transactions of Django in which the example adds messages, by `python -m`: it prints what is
there after each of them."""

import os
import sys
from typing import Any

import django

os.environ["DJANGO_SETTINGS_MODULE"] = "orders_django.settings"
django.setup()

from django.db import connection, transaction  # noqa: E402 - after setup()
from orders_django.contract import OrderPlaced  # noqa: E402 - after setup()
from orders_django.joining import add  # noqa: E402 - after setup()
from orders_django.models import Order  # noqa: E402 - after setup()
from orders_django.service import service  # noqa: E402 - after setup()

from outbox.errors import AutocommitRefused  # noqa: E402 - after setup()


class Undone(Exception):
    """Rolls a block back."""


def place(messages: int = 1) -> None:
    """An order, and that many messages about it."""
    order: Any = Order.objects.create(id=service.new_id(), item="a lamp")
    for _ in range(messages):
        add(OrderPlaced(order.id, order.item))


def tell(when: str) -> None:
    """Print how many of each there are."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM outbox")
        messages = cursor.fetchone()[0]
    say(f"{when}: {_many(Order.objects.count(), 'order')}, {_many(messages, 'message')}")


def say(line: str) -> None:
    """Print it."""
    sys.stdout.write(f"{line}\n")


def _many(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def main() -> None:
    """All of them."""
    with transaction.atomic():
        place()
    tell("committed")
    handlers = len(connection.connection._notice_handlers)
    try:
        with transaction.atomic():
            place()
            raise Undone
    except Undone:
        tell("rolled back")
    with transaction.atomic():
        place(messages=0)
        try:
            with transaction.atomic():
                place()
                raise Undone
        except Undone:
            pass
    tell("in a savepoint that is rolled back")
    try:
        add(OrderPlaced(service.new_id(), "a lamp"))
    except AutocommitRefused:
        say("outside of a transaction: refused")
    with transaction.atomic():
        place()
    tell("committed after that")
    if len(connection.connection._notice_handlers) == handlers:
        say("the handlers of notices are as many as before")


if __name__ == "__main__":
    main()
