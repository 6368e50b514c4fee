"""What the tests of the library put in and look at: envelopes, inboxes, relays, letters."""
