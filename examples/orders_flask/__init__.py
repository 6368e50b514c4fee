"""Orders that a shop takes, in Flask."""
