"""What the tests of this folder ask for."""

from __future__ import annotations

import pytest

from tests.support.outbox.inboxes import Names


@pytest.fixture
def names() -> Names:
    return Names()
