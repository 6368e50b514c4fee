"""What operators do with an outbox: look, redrive, drop and reschedule, by filters."""
