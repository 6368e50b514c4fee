"""What the benchmark says of its figures."""
