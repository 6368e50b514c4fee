"""How commands ask and print."""
