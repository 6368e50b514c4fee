"""The released version beside this one: its wheel, its processes, and what either offers."""
