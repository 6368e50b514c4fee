"""The library's tables in a database: their versions, and what differs from them."""
