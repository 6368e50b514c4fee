"""The console: a page for people, drawn in the browser from what the API says."""

from __future__ import annotations

from orchestrator.console.router import router

__all__ = ["router"]
