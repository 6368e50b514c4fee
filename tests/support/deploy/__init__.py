"""What `deploy/` has, rendered by the real tools and held against the code."""
