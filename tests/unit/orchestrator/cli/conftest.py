"""What the tests of this folder ask for."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.orchestrator.stub_orchestrator import StubOrchestrator, stub_orchestrator


@pytest.fixture
def stub(monkeypatch: pytest.MonkeyPatch) -> Iterator[StubOrchestrator]:
    with stub_orchestrator() as running:
        monkeypatch.setenv("SAGABOX_URL_ORCHESTRATOR", running.url)
        yield running
