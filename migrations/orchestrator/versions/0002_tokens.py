"""the tokens of people and programs, and the console's sessions"""

from __future__ import annotations

from migrations.environment import OrchestratorVersion

revision = "orchestrator_0002"
down_revision = "orchestrator_0001"
kind = "expand"


def upgrade() -> None:
    """Create the tables."""
    OrchestratorVersion(2).upgrade()


def downgrade() -> None:
    """Drop the tables: all tokens and sessions end."""
    OrchestratorVersion(2).downgrade()
