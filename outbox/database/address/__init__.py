"""Where a database is and how it is entered: addresses as providers write them, passwords."""
