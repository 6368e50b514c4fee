"""From the tables to the destinations, in order."""
