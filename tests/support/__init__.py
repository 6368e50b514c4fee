"""What the tests share: real servers, fresh databases, bounded waits, and the report at the end."""
