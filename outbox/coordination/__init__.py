"""Who does what and when: leases between processes, the bell within one and the wake-ups between
several, loops that go on, and whether they do."""
