"""the numbers of runs, the messages that asked for them, and the time each message was due"""

from __future__ import annotations

from migrations.environment import OrchestratorVersion

revision = "orchestrator_0004"
down_revision = "orchestrator_0003"
kind = "expand"


def upgrade() -> None:
    """Add the columns; the age of a run that is there already is told by its id."""
    OrchestratorVersion(4).upgrade()


def downgrade() -> None:
    """Drop the columns; the age of every run is told by its id."""
    OrchestratorVersion(4).downgrade()
