"""Collectors of traces and metrics, and what is made for them: rules and dashboards."""
