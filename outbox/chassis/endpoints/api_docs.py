"""/docs: the interactive page of the API, drawn from files that travel with the package.

Nothing on the page comes from another host, and its content security policy forbids it, too.
"""

from __future__ import annotations

import html
from collections.abc import Mapping
from pathlib import Path

from fastapi import APIRouter
from starlette.responses import FileResponse, HTMLResponse, Response

from outbox.chassis.http.problems import HttpProblem

FOLDER = Path(__file__).parent / "vendor" / "swagger-ui"
FILES: Mapping[str, str] = {
    "swagger-ui.css": "text/css",
    "swagger-ui-bundle.js": "text/javascript",
    "favicon-32x32.png": "image/png",
}
"""The vendored files that the page loads, with their media types."""

# The script sets styles on elements and draws its icons from data: addresses.
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data:; font-src 'self' data:; connect-src 'self'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'"
)

# Addresses are relative, so that the page works behind a prefix as well.
_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<title>{title}</title>
<link rel="icon" type="image/png" href="docs/favicon-32x32.png">
<link rel="stylesheet" href="docs/swagger-ui.css">
</head>
<body>
<div id="api"></div>
<script src="docs/swagger-ui-bundle.js"></script>
<script src="docs/start.js"></script>
</body>
</html>
"""

# Without validatorUrl the page would send the document to a public service.
_START = """SwaggerUIBundle({
  url: "openapi.json",
  dom_id: "#api",
  deepLinking: true,
  validatorUrl: null,
  presets: [SwaggerUIBundle.presets.apis],
  layout: "BaseLayout",
});
"""


def router(title: str) -> APIRouter:
    """The page, and the files it loads."""
    routes = APIRouter(include_in_schema=False)
    page = _PAGE.format(title=html.escape(title))

    @routes.get("/docs")
    async def docs() -> Response:
        return HTMLResponse(page, headers={"content-security-policy": _POLICY})

    @routes.get("/docs/start.js")
    async def start() -> Response:
        return Response(_START, media_type="text/javascript")

    @routes.get("/docs/{name}")
    async def file(name: str) -> Response:
        if name not in FILES:
            raise HttpProblem(
                404,
                "unknown-address",
                "The documentation has no such file.",
                next_step="Open /docs.",
            )
        return FileResponse(
            FOLDER / name, media_type=FILES[name], headers={"cache-control": "max-age=3600"}
        )

    return routes
