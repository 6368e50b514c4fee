"""The tables of an orchestrator, version by version, as they were when each was released."""
