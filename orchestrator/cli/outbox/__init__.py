"""The command `sagabox outbox`: the outbox of a service, by way of its database."""
