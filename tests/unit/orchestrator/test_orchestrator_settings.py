"""The orchestrator's own settings."""

from __future__ import annotations

import pytest

from orchestrator.settings import OrchestratorSettings
from outbox.chassis.settings import InvalidSettings
from tests.support.blog.blog import SECRETS


def settings(stuck_to: str) -> OrchestratorSettings:
    url = "sqlite:////nowhere/orchestrator.sqlite"
    return OrchestratorSettings(database_url=url, secrets=SECRETS, stuck_to=stuck_to)


@pytest.mark.parametrize(
    ("text", "names"),
    [("", ()), ("desk", ("desk",)), (" desk,pager ,desk,", ("desk", "pager"))],
)
def test_the_services_that_are_told_of_stuck_steps_are_named_once_each(
    text: str, names: tuple[str, ...]
) -> None:
    assert settings(text).told_of_stuck({"desk", "pager"}) == names


def test_a_service_that_is_no_participant_cannot_be_told() -> None:
    with pytest.raises(InvalidSettings, match="SAGABOX_STUCK_TO names 'dsek'") as refused:
        settings("desk,dsek").told_of_stuck({"desk", "pager"})
    assert "orchestrator has no peer dsek" in refused.value.problem
    assert "it has: desk, pager" in refused.value.problem
