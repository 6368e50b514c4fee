"""Hooks of gunicorn: the service runs as long as its worker does."""

from typing import Any


def post_worker_init(worker: Any) -> None:
    worker.wsgi.start()


def worker_exit(_server: Any, worker: Any) -> None:
    worker.wsgi.stop()
