"""Two services as processes: one says something, the other one notes when it hears it."""
