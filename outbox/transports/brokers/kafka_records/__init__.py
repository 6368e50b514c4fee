"""What the adapter of Kafka asks of it: connections, batches of records, and readings of a
partition."""
