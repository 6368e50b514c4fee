"""histories that are removed before their runs, and an index of signals by their runs"""

from __future__ import annotations

from migrations.environment import OrchestratorVersion

revision = "orchestrator_0011"
down_revision = "orchestrator_0010"
kind = "expand"


def upgrade() -> None:
    """Add the columns, which older code leaves empty, and the indexes."""
    OrchestratorVersion(11).upgrade()


def downgrade() -> None:
    """Drop them."""
    OrchestratorVersion(11).downgrade()
