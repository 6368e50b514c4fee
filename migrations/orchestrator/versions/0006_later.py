"""runs that begin later, and the fingerprints of starts"""

from __future__ import annotations

from migrations.environment import OrchestratorVersion

revision = "orchestrator_0006"
down_revision = "orchestrator_0005"
kind = "expand"


def upgrade() -> None:
    """Add the columns; the starts that are there already have no fingerprint. The older code finds
    runs that live by their numbers' index as well. Runs that were scheduled before a way back to it
    are due when they are to begin."""
    OrchestratorVersion(6).upgrade()


def downgrade() -> None:
    """Drop the columns; the older code parks a run that has not begun."""
    OrchestratorVersion(6).downgrade()
