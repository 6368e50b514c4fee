"""A shop behind a broker: a service of its own there, and a partner that knows nothing of
Sagabox."""
