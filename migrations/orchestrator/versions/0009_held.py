"""the table for what a broker brought and could not be handled"""

from __future__ import annotations

from migrations.environment import OrchestratorVersion

revision = "orchestrator_0009"
down_revision = "orchestrator_0008"
kind = "expand"


def upgrade() -> None:
    """Create the table, which older code leaves empty."""
    OrchestratorVersion(9).upgrade()


def downgrade() -> None:
    """Drop the table."""
    OrchestratorVersion(9).downgrade()
