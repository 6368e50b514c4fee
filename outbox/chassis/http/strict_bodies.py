"""Routes that refuse a body which not every reader takes in the same way."""

from __future__ import annotations

import json
from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import Request, Response
from fastapi.routing import APIRoute

from outbox.wire import strict_json


class StrictRoute(APIRoute):
    """A route whose body is JSON that every reader takes in the same way.

    A body with two members of one name, or with a NaN or an infinity, is answered like one that is
    no JSON: 400, with the reason.
    The type of a field checks its value, and answers 422 with the field's name.
    """

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """The handler, which is given a request that reads strictly."""
        handle = super().get_route_handler()

        async def handle_strictly(request: Request) -> Response:
            return await handle(_StrictRequest(request.scope, request.receive))

        return handle_strictly


class _StrictRequest(Request):
    async def json(self) -> Any:
        body = await self.body()
        try:
            value = json.loads(body, parse_constant=_refuse)
            strict_json.require_names_once(body, value)
        except ValueError as error:
            # The one error that the framework takes for a body that is no JSON.
            if isinstance(error, json.JSONDecodeError):
                raise
            raise json.JSONDecodeError(str(error), "", 0) from None
        return value


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no number in JSON")
