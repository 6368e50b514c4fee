"""Who does what and when: leases between processes, the bell within one, loops that go on,
and whether they do."""
