"""One's own saga with one's own handlers: real databases, and everything that can go wrong."""
