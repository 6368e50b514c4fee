"""The walk through that world: every order of events, and what is told of it. Pure."""
