"""The participants of a world: handlers on real databases, the ways to them, and later answers."""
