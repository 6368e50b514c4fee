"""The articles of the blog: one service, with a database of its own."""
