"""Benchmarks: ratios that were measured in one run, on real databases."""
