"""The world of an exploration: what is there, and each thing that can happen to it. Pure."""
