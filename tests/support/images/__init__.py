"""A container's image without a container engine: its steps, its root, and processes in it."""
