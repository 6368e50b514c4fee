"""The command `sagabox retention`: a round by hand, and what it would remove."""
