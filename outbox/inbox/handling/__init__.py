"""One handler: its registration, its call, and what its results mean."""
