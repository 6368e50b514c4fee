"""Runs, watches and repairs sagas across services that answer commands with replies."""

__all__: list[str] = []
