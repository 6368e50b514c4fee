"""The commands that try things: explore, simulate, coverage, conform."""
