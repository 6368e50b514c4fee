"""The commands about services: serve, dev, migrate, token."""
