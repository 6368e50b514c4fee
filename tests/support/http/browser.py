"""A real Chromium, and a page that is watched: what it says, what it refuses, whom it asks."""

from __future__ import annotations

import os
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from playwright.async_api import Browser, ConsoleMessage, Page, Request, async_playwright, expect

from tests.support.processes.waiting import BUSY

_NAMES = ("chromium", "chromium-browser", "google-chrome")
# What a test starts talks to the services of the test alone.
_OPTIONS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
)
# The console looks again each 5 s: what a page does not show yet may come with the next look.
expect.set_options(timeout=6_000 * BUSY)
_NOTES_VIOLATIONS = """
addEventListener("securitypolicyviolation", (event) =>
  console.error(`policy violated: ${event.violatedDirective} by ${event.blockedURI}`));
"""


def chromium() -> str:
    """Where it is. Skips the test where there is none."""
    found = next(filter(None, map(shutil.which, _NAMES)), None)
    if found is None:
        pytest.skip("no Chromium on PATH; `.ci/run` installs Debian's")
    return found


@dataclass
class Watched:
    """A page, and what was seen of it since it was opened."""

    page: Page
    errors: list[str] = field(default_factory=list)
    """Errors and warnings of its console, scripts that failed, and violations of its policy."""
    strangers: list[str] = field(default_factory=list)
    """Addresses beyond loopback that it asked."""

    def watch(self) -> None:
        """Begin to take down."""
        self.page.on("console", self._said)
        self.page.on("pageerror", lambda error: self.errors.append(f"script failed: {error}"))
        self.page.on("request", self._asked)

    def assert_clean(self, *but: str) -> None:
        """Nothing was seen, except errors that hold one of these texts."""
        unforeseen = [it for it in self.errors if not any(text in it for text in but)]
        assert unforeseen == []
        assert self.strangers == []

    def _said(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            self.errors.append(f"{message.text} ({message.location.get('url', '')})")

    def _asked(self, request: Request) -> None:
        address = urlsplit(request.url)
        if address.scheme not in ("data", "blob") and address.hostname != "127.0.0.1":
            self.strangers.append(request.url)


@asynccontextmanager
async def started(profile: Path) -> AsyncIterator[Browser]:
    """Chromium with an empty profile of its own."""
    executable = chromium()
    environment: dict[str, str | float | bool] = {
        **os.environ,
        "HOME": str(profile),
        "XDG_CONFIG_HOME": str(profile),
    }
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(
            executable_path=executable, args=list(_OPTIONS), env=environment
        )
        try:
            yield browser
        finally:
            await browser.close()


@asynccontextmanager
async def page_of(
    browser: Browser, *, width: int = 1280, height: int = 900, dark: bool = False
) -> AsyncIterator[Watched]:
    """A page of a new session of the browser."""
    context = await browser.new_context(
        viewport={"width": width, "height": height},
        color_scheme="dark" if dark else "light",
        reduced_motion="reduce",
        service_workers="block",
    )
    try:
        await context.add_init_script(_NOTES_VIOLATIONS)
        watched = Watched(await context.new_page())
        watched.page.set_default_timeout(10_000 * BUSY)
        watched.watch()
        yield watched
    finally:
        await context.close()
