"""How the services of `sagabox dev` and `sagabox demo` send messages to each other."""
