"""From a batch of envelopes to handlers that take effect once."""
