"""the name of the service that the tables belong to"""

from __future__ import annotations

from migrations.environment import OrchestratorVersion

revision = "orchestrator_0008"
down_revision = "orchestrator_0007"
kind = "expand"


def upgrade() -> None:
    """Create the table, which the service fills at its next start."""
    OrchestratorVersion(8).upgrade()


def downgrade() -> None:
    """Drop the table; the tables belong to no service then."""
    OrchestratorVersion(8).downgrade()
