"""One transaction in which many runs take a step."""
