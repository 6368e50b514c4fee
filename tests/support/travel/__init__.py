"""`examples/travel` in tests: its processes, and what its tables say of each trip."""
