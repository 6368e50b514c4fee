"""A participant that offers the trial commands, for `sagabox conform`."""
