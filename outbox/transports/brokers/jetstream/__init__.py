"""What the adapter of NATS asks of JetStream: connections, streams, and readings of a partition."""
