"""A wrapper of an application, which tells the terminal why it refused to start."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from outbox.errors import OutboxError

_Event = MutableMapping[str, Any]
_Receive = Callable[[], Awaitable[_Event]]
_Send = Callable[[_Event], Awaitable[None]]
_App = Callable[[_Event, _Receive, _Send], Awaitable[None]]


class Starting:
    """The application `app`; `failure` is the error with which it refused to start, if it did."""

    def __init__(self, app: _App) -> None:
        self._app = app
        self.failure: OutboxError | None = None

    async def __call__(self, scope: _Event, receive: _Receive, send: _Send) -> None:
        if scope["type"] != "lifespan":
            await self._app(scope, receive, send)
            return
        failed: list[_Event] = []

        async def hold_failure(event: _Event) -> None:
            # It holds the traceback as a text, which the server would log.
            if event["type"] == "lifespan.startup.failed":
                failed.append(event)
            else:
                await send(event)

        try:
            await self._app(scope, receive, hold_failure)
        except OutboxError as error:
            self.failure = error
            await send({"type": "lifespan.startup.failed", "message": error.problem})
        except BaseException:
            for event in failed:
                await send(event)
            raise
