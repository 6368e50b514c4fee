"""Destinations whose messages a reader takes from PostgreSQL's log, such as Debezium."""
