"""An orchestrator inside the application of one of the services: see `orchestrator.attach`."""
