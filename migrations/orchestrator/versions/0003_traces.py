"""the traces that runs and other names of runs belong to"""

from __future__ import annotations

from migrations.environment import OrchestratorVersion

revision = "orchestrator_0003"
down_revision = "orchestrator_0002"
kind = "expand"


def upgrade() -> None:
    """Add the columns; what is there already has no trace of its own."""
    OrchestratorVersion(3).upgrade()


def downgrade() -> None:
    """Drop the columns; runs go on in the traces that follow from their ids."""
    OrchestratorVersion(3).downgrade()
