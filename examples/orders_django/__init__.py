"""Orders that a shop takes, in Django."""
