"""Participants in other languages, for tests that try them."""
