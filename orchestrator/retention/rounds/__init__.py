"""A round of retention: what is old is archived and removed, in steps, under a lease."""
