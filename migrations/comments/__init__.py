"""The history of the comments service."""
