"""Participants that are plain HTTP services: their inboxes here, and the calls to them."""
