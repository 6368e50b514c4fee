"""Runs that ended long ago: they are archived, then removed, and found again in the archive."""
