"""/console: one page, also at the addresses of its own below, and the modules that it loads.

The files tell nothing about sagas, so any client may load them; the page asks the API with its
user's rights. Its content security policy lets it load from, and speak to, its own origin alone.
"""

from __future__ import annotations

from fastapi import APIRouter, Request
from starlette.responses import RedirectResponse, Response

from orchestrator.console import assets
from orchestrator.console.assets import Asset
from outbox.chassis.http.problems import HttpProblem

PAGE = "index.html"
PAGES = ("sagas", "definitions", "participants", "dead-letters")
"""The first parts of the addresses of the page itself, below /console."""
_DEEPEST = 3

# Trusted Types make the browser refuse text that would become markup, wherever it is tried.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'; trusted-types 'none'"
)


def router() -> APIRouter:
    """The router of these addresses."""
    routes = APIRouter(include_in_schema=False)
    files = assets.load()
    # The page's addresses are relative, so that it works behind a prefix.
    pages = [assets.at_depth(files[PAGE], depth) for depth in range(_DEEPEST + 1)]

    @routes.get("/console")
    async def page(request: Request) -> Response:
        return _answer(request, pages[0])

    @routes.get("/console/")
    async def page_with_slash() -> Response:
        return RedirectResponse("../console", status_code=308)

    @routes.get("/console/{path:path}")
    async def file(request: Request, path: str) -> Response:
        parts = path.split("/")
        if parts[0] in PAGES and len(parts) <= _DEEPEST and all(parts):
            return _answer(request, pages[len(parts)])
        found = None if path == PAGE else files.get(path)
        if found is None:
            raise HttpProblem(
                404,
                "unknown-address",
                "The console has no such file.",
                next_step="Open /console.",
            )
        return _answer(request, found)

    return routes


def _answer(request: Request, asset: Asset) -> Response:
    headers = {
        "cache-control": asset.cache_control,
        "content-security-policy": POLICY,
        "etag": asset.etag,
    }
    known = {it.strip() for it in request.headers.get("if-none-match", "").split(",")}
    if asset.etag in known or f"W/{asset.etag}" in known:
        return Response(status_code=304, headers=headers)
    return Response(asset.content, headers=headers, media_type=asset.media_type)
