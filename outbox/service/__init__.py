"""The one object that a service needs, `outbox.Service`, and what it is given."""
