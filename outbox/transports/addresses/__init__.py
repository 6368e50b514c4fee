"""The addresses of a destination: where they come from, and which of them is asked next."""
