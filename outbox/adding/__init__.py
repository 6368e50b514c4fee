"""From `outbox.add` into the transaction of the caller."""
