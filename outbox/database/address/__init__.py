"""Where a database is and how it is entered: addresses of providers, passwords, poolers."""
