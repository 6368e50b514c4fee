"""The command `sagabox audit`: what databases say of each other, and its repair."""
