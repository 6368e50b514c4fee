"""Goes through every way that a run of a saga can go: see `orchestrator.testing.explore`."""
