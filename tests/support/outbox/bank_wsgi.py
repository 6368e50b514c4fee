"""The bank as a WSGI application, and the hooks of gunicorn that go with it."""

from typing import Any

from tests.support.outbox.bank import service

application = service.wsgi()


def post_worker_init(_: Any) -> None:
    """A worker has loaded the application."""
    application.start()


def worker_exit(_server: Any, _worker: Any) -> None:
    """A worker ends."""
    application.stop()
