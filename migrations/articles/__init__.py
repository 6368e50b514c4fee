"""The history of the articles service."""
