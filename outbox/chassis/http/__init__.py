"""How requests are read, and how errors are answered."""
