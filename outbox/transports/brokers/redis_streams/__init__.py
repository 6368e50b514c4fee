"""What the adapter of Redis asks of it: scripts, connections, and readings of a stream."""
