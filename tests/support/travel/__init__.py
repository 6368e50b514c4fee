"""`examples/travel` in tests: its processes, their deaths, and what the books of all say."""
