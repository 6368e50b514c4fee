"""The orchestrator's API for Python programs: see `orchestrator.Client`."""
