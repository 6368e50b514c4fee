"""The comments of the blog: one service, with a database of its own."""
