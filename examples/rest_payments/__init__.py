"""An orchestrator, and two plain HTTP services that know nothing of it."""
