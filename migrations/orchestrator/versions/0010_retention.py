"""what is known of runs that were removed, and the files that they are archived in"""

from __future__ import annotations

from migrations.environment import OrchestratorVersion

revision = "orchestrator_0010"
down_revision = "orchestrator_0009"
kind = "expand"


def upgrade() -> None:
    """Add the columns, tables and indexes, which older code leaves empty."""
    OrchestratorVersion(10).upgrade()


def downgrade() -> None:
    """Drop them."""
    OrchestratorVersion(10).downgrade()
