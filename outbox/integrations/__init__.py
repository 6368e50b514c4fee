"""A service inside an application of a web framework."""
