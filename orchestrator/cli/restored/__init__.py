"""The command `sagabox restored`: what a database must know before its service starts again."""
