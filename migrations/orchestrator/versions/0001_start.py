"""the runs of sagas, and the library's tables"""

from __future__ import annotations

from migrations.environment import OrchestratorVersion

revision = "orchestrator_0001"
down_revision = None
kind = "expand"


def upgrade() -> None:
    """Create the tables."""
    OrchestratorVersion(1).upgrade()


def downgrade() -> None:
    """Drop the tables, with all that is in them."""
    OrchestratorVersion(1).downgrade()
