"""A shop in one process: a service, its orchestrator and one SQLite file."""
