"""What keeps runs going on one node, together with other nodes."""
