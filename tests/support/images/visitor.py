"""A visitor of the blog in the containers: publishes an article, comments on it, deletes it, and
prints what came of it. It runs in the image, with nothing but what is installed there."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import httpx

T = TypeVar("T")

ORCHESTRATOR, ARTICLES, COMMENTS = (f"http://localhost:{port}" for port in (8000, 8001, 8002))
SECONDS, PAUSE = 60.0, 0.1


def patiently(ask: Callable[[], T | None]) -> T:
    """The first answer that is not None. Ends the visit where there is none in time."""
    end = time.monotonic() + SECONDS
    while time.monotonic() < end:
        if (found := ask()) is not None:
            return found
        time.sleep(PAUSE)  # other processes are waited for, and the deadline bounds it
    sys.exit("nothing came of it in time")


def visit(public: httpx.Client, viewer: httpx.Client) -> dict[str, Any]:
    """All that the visitor does."""
    article = {"title": "Tides", "body": "Once upon a time", "author": "ada"}
    made = public.post(f"{ARTICLES}/articles", json=article).raise_for_status().json()["id"]
    comment = {"article_id": made, "author": "bob", "content": "Well said"}

    def commented() -> bool | None:
        # Comments hears of the article a moment later.
        return True if public.post(f"{COMMENTS}/comments", json=comment).is_success else None

    patiently(commented)
    deleted = public.delete(f"{ARTICLES}/articles/{made}").raise_for_status()
    saga = deleted.json()["saga_id"]

    def ended() -> str | None:
        shown = viewer.get(f"{ORCHESTRATOR}/sagas/{saga}")
        told = shown.json() if shown.is_success else {}
        return told["status"] if told.get("ended_at") else None

    return {
        "status": patiently(ended),
        "article": public.get(f"{ARTICLES}/articles/{made}").status_code,
        "comments": public.get(f"{COMMENTS}/comments", params={"article_id": made}).json()["items"],
        "late comment": public.post(f"{COMMENTS}/comments", json=comment).status_code,
        "metrics": {
            name: viewer.get(f"{address}/metrics").status_code
            for name, address in (
                ("orchestrator", ORCHESTRATOR),
                ("articles", ARTICLES),
                ("comments", COMMENTS),
            )
        },
        "without a token": httpx.get(f"{ORCHESTRATOR}/sagas/{saga}", timeout=20).status_code,
    }


def bearer(file: str) -> httpx.Client:
    """A client that shows the token in that file."""
    token = Path(file).read_text().strip()
    return httpx.Client(headers={"authorization": f"Bearer {token}"}, timeout=20)


if __name__ == "__main__":
    with bearer("/run/secrets/blog-token") as readers, bearer("/run/tokens/metrics") as figures:
        sys.stdout.write(json.dumps(visit(readers, figures)))
