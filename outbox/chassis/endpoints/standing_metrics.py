"""The metrics of what stands in a service's tables: its outbox's backlog, and what is pending."""

from __future__ import annotations

from datetime import datetime

from prometheus_client import CollectorRegistry, Gauge

from outbox.chassis.endpoints.backlog import Standing
from outbox.clock import Clock


class StandingMetrics:
    """The gauges of what stands in the tables, and of whether they can be read."""

    def __init__(self, registry: CollectorRegistry) -> None:
        def gauge(name: str, meaning: str) -> Gauge:
            return Gauge(f"sagabox_{name}", meaning, ["destination"], registry=registry)

        self._unsent = gauge(
            "outbox_unsent_messages", "Messages that wait to be sent (counted to 100,000)"
        )
        self._oldest = gauge("outbox_oldest_seconds", "Age of the oldest message that waits")
        self._parked = gauge("outbox_parked_messages", "Messages of keys that are held for long")
        self._scheduled = gauge("outbox_scheduled_messages", "Messages whose time has not come")
        self._held = gauge("outbox_held_keys", "Keys that wait after a failure")
        self._blocked = gauge(
            "outbox_blocked_keys", "Keys that wait until an operator redrives or drops a message"
        )
        self._dead = gauge("outbox_dead_letters", "Messages that were given up")
        self._paused = gauge(
            "outbox_pauses", "Pauses of the destination, until an operator resumes it: 0 or 1"
        )
        self._pending = Gauge(
            "sagabox_inbox_pending_commands",
            "Commands whose answers come later (counted to 100,000)",
            ["kind"],
            registry=registry,
        )
        self._oldest_pending = Gauge(
            "sagabox_inbox_pending_oldest_seconds",
            "Age of the oldest command whose answer comes later",
            ["kind"],
            registry=registry,
        )
        self._received = Gauge(
            "sagabox_inbox_held_messages",
            "Messages that came by a broker and are held (counted to 100,000)",
            ["state"],
            registry=registry,
        )
        self._oldest_received = Gauge(
            "sagabox_inbox_held_oldest_seconds",
            "Time since the oldest message that came by a broker is held",
            ["state"],
            registry=registry,
        )
        self._database = Gauge(
            "sagabox_database_up", "1 if the database answered this scrape", registry=registry
        )
        self._relay = Gauge(
            "sagabox_relay_running", "1 if the relay runs in this process", registry=registry
        )
        self._gauges = (
            self._unsent,
            self._oldest,
            self._parked,
            self._scheduled,
            self._held,
            self._blocked,
            self._dead,
            self._paused,
            self._pending,
            self._oldest_pending,
            self._received,
            self._oldest_received,
        )

    def show(self, found: Standing | None, clock: Clock, relay_runs: bool) -> None:
        """Show what was found at this scrape, and nothing where the tables could not be read."""
        self._relay.set(relay_runs)
        self._database.set(found is not None)
        for gauge in self._gauges:
            # Old figures would look like new ones.
            gauge.clear()
        if found is None:
            return
        for waiting in found.waiting:
            self._pending.labels(waiting.kind).set(waiting.count)
            self._oldest_pending.labels(waiting.kind).set(_age(waiting.oldest, clock))
        for held in found.received:
            self._received.labels(held.state.value).set(held.count)
            self._oldest_received.labels(held.state.value).set(_age(held.oldest, clock))
        for backlog in found.backlogs:
            place = backlog.destination
            self._unsent.labels(place).set(backlog.unsent)
            self._parked.labels(place).set(backlog.parked)
            self._scheduled.labels(place).set(backlog.scheduled)
            self._held.labels(place).set(backlog.held_keys)
            self._blocked.labels(place).set(backlog.blocked_keys)
            self._dead.labels(place).set(backlog.dead)
            self._paused.labels(place).set(backlog.paused)
            self._oldest.labels(place).set(_age(backlog.oldest, clock))


def _age(since: datetime | None, clock: Clock) -> float:
    """In seconds; 0 where nothing is that old."""
    return 0.0 if since is None else max(0.0, (clock.now() - since).total_seconds())
