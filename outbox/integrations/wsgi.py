"""A service inside a WSGI application: see `outbox.Service.wsgi`."""

from __future__ import annotations

import atexit
import logging
import os
import threading
from collections.abc import Iterable
from typing import TYPE_CHECKING, Protocol
from weakref import WeakSet

from starlette.routing import compile_path

from outbox.errors import InvalidService
from outbox.integrations.background import Background
from outbox.integrations.bare import bare
from outbox.integrations.fastapi import Attached, addresses
from outbox.integrations.wsgi_request import answer, tell
from outbox.transports.http.problems import HttpProblem

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

log = logging.getLogger("outbox.service")

_ENDS_WITHIN = 20.0
"""Seconds for requests, relay and connections at the end, beside the time that handlers have."""


class Forked(Attached, Protocol):
    """A service that may find itself in a process that was forked from its own."""

    def forget_parent(self) -> None: ...


class WsgiService:
    """A WSGI application with the addresses of a service, around another one or alone.

    Each process runs the service in a thread of its own, which begins with the first request of any
    kind, or with `start`, and ends with the process, or with `stop`. A process that is forked after
    that begins with a thread of its own. On SQLite it refuses to, as SQLite does not outlive a fork
    of open databases.
    """

    def __init__(
        self,
        service: Forked,
        app: WSGIApplication | None,
        *,
        messages: bool,
        health: bool,
        metrics: bool,
    ) -> None:
        self._service = service
        self._app = app
        self._wanted = {"messages": messages, "health": health, "metrics": metrics}
        self._paths = [compile_path(path)[0] for path in addresses(**self._wanted)]
        self._attached = bare(service, **self._wanted)
        self._lock = threading.Lock()
        self._background: Background | None = None
        self._refusal: InvalidService | None = None
        _all.add(self)

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Answer the service's own addresses, and leave all others to the application inside."""
        path = environ.get("PATH_INFO", "")
        is_own = self._app is None or any(it.fullmatch(path) for it in self._paths)
        if self._refusal is not None:
            if is_own:
                problem = HttpProblem.telling(self._refusal, 503, "not-ready")
                return tell(problem, start_response)
        else:
            background = self._begun()
            if is_own:
                return answer(self._attached, background, environ, start_response)
        assert self._app is not None
        return self._app(environ, start_response)

    def start(self) -> None:
        """Run the service now, in this process, and return when it runs; call it after a fork.

        Raises SchemaMissing or SchemaOlder where the database lacks tables, what the database
        raises where it is away, and InvalidService.
        """
        if self._refusal is not None:
            raise self._refusal
        background = self._begun()
        try:
            background.wait_until_started()
        except BaseException:
            background.stop(_ENDS_WITHIN)
            self._background = None  # the next attempt is a new one
            raise

    def stop(self) -> None:
        """End the service in this process: what is in hand is finished. It does not start again
        here. Without effect where it does not run."""
        background = self._background
        if background is not None:
            background.stop(_ENDS_WITHIN + self._service.inbox.longest_work)

    def _begun(self) -> Background:
        with self._lock:
            if self._background is None:
                self._background = Background(self._attached, name=self._service.name)
                atexit.register(self.stop)
            return self._background

    def _in_child(self) -> None:
        if self._background is None:
            return
        self._background = None
        self._lock = threading.Lock()
        if self._service.engine.dialect.name == "sqlite":
            self._refusal = InvalidService(
                f"the service {self._service.name} ran before this process was forked, and SQLite "
                "does not outlive that",
                next_step="start it after the fork: for gunicorn, in post_fork",
            )
            log.critical("%s", self._refusal)
            return
        self._service.forget_parent()
        self._attached = bare(self._service, **self._wanted)


_all: WeakSet[WsgiService] = WeakSet()


def _after_fork() -> None:
    for it in _all:
        it._in_child()


os.register_at_fork(after_in_child=_after_fork)
