"""the table for answers that come later"""

from __future__ import annotations

from migrations.environment import OrchestratorVersion

revision = "orchestrator_0007"
down_revision = "orchestrator_0006"
kind = "expand"


def upgrade() -> None:
    """Create the table, which is empty."""
    OrchestratorVersion(7).upgrade()


def downgrade() -> None:
    """Drop the table. What was still pending is answered `unknown` from then on."""
    OrchestratorVersion(7).downgrade()
