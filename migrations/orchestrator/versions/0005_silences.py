"""the participants that give a node no answer"""

from __future__ import annotations

from migrations.environment import OrchestratorVersion

revision = "orchestrator_0005"
down_revision = "orchestrator_0004"
kind = "expand"


def upgrade() -> None:
    """Create the table; a node of older code tells nothing there."""
    OrchestratorVersion(5).upgrade()


def downgrade() -> None:
    """Drop the table; what it says is told anew."""
    OrchestratorVersion(5).downgrade()
