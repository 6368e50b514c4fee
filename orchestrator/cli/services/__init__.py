"""The commands about services: serve, run, dev, migrate, token."""
