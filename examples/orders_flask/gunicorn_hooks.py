"""Hooks of gunicorn: the service runs as long as its worker does."""

from typing import Any

from orders_flask.app import running


def post_worker_init(_: Any) -> None:
    running.start()


def worker_exit(_server: Any, _worker: Any) -> None:
    running.stop()
