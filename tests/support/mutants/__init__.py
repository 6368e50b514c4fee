"""Kept bugs, and the tools that look for them."""
