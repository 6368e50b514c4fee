"""Real brokers on loopback, and what their client libraries do by themselves."""
