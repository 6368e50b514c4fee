"""The history of the orchestrator's database."""
