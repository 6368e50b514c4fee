"""The OpenAPI document: the framework's own, with every error described as a problem."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from outbox.chassis.http.problems import Problem, documented

_ALWAYS = documented({500: "An unforeseen error", 503: "The database is away, busy or full"})
_WITH_BODY = documented({400: "The body is not JSON", 413: "The body is longer than 1 MiB"})
_INVALID = documented({422: "Something in the request cannot be; the detail names it"})


def install(app: FastAPI) -> None:
    """Replace `app.openapi`. The document is made once, when it is first asked for."""

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = _describe(app)
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]  # the documented way to extend it


def _describe(app: FastAPI) -> dict[str, Any]:
    document = get_openapi(
        title=app.title, version=app.version, description=app.description, routes=app.routes
    )
    for operations in document["paths"].values():
        for operation in operations.values():
            responses = operation["responses"]
            added = dict(_ALWAYS)
            if "requestBody" in operation:
                added |= _WITH_BODY
            if "application/json" in responses.get("422", {}).get("content", {}):
                responses["422"] = _INVALID[422]
            for status, response in added.items():
                responses.setdefault(str(status), response)
    schemas = document.setdefault("components", {}).setdefault("schemas", {})
    for name in ("HTTPValidationError", "ValidationError"):
        schemas.pop(name, None)
    schemas["Problem"] = Problem.model_json_schema()
    return document
