"""Routes that read JSON as strictly as messages are read."""

from __future__ import annotations

import json
from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import Request, Response
from fastapi.routing import APIRoute

from outbox.wire import strict_json


class StrictRoute(APIRoute):
    """A route whose body is JSON that every reader and every database takes in the same way.

    A body with two members of one name, a NUL or an integer beyond 64 bits is answered as one that
    is no JSON: 400, with the reason. See `outbox.wire.strict_json`.
    """

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """The handler, which is given a request that reads strictly."""
        handle = super().get_route_handler()

        async def handle_strictly(request: Request) -> Response:
            return await handle(_StrictRequest(request.scope, request.receive))

        return handle_strictly


class _StrictRequest(Request):
    async def json(self) -> Any:
        try:
            return strict_json.check(await self.body())
        except ValueError as error:
            # The one error that the framework takes for a body that is no JSON.
            raise json.JSONDecodeError(str(error), "", 0) from None
