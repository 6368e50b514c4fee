"""The purge of an inbox: which rows are needed no longer, and whom to ask about the others."""
