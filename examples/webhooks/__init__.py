"""A blog whose events go to a subscriber outside, which knows nothing of Sagabox."""
