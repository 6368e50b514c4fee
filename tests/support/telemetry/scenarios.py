"""For each alert a scenario in which it fires, and goes quiet again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

_CALM, _AFTER = 5, 10
"""Minutes before the trouble, and how many it lasts beyond what the alert asks for."""


@dataclass(frozen=True)
class Scenario:
    """A trouble, as series of Prometheus with a value each minute.

    `early` is a minute in which the trouble is there, and the alert does not fire yet; None where
    it fires at once. `firing` and `quiet` are minutes in which it fires, and fires no more.
    """

    series: Mapping[str, str]
    firing: int
    quiet: int
    early: int | None = None

    def as_test(self, alert: str) -> dict[str, Any]:
        """As `promtool test rules` reads it."""
        looks = {0: 0, self.firing: 1, self.quiet: 0}
        if self.early is not None:
            looks[self.early] = 0
        expression = f'count(ALERTS{{alertname="{alert}", alertstate="firing"}})'
        return a_test(alert, self.series, {(it, expression): n for it, n in looks.items()})


def a_test(
    name: str, series: Mapping[str, str], looks: Mapping[tuple[int, str], int]
) -> dict[str, Any]:
    """A test of these series: what an expression gives in a minute; nothing in place of a 0."""
    return {
        "name": name,
        "interval": "1m",
        "input_series": [{"series": it, "values": series[it]} for it in series],
        "promql_expr_test": [
            {"expr": expr, "eval_time": f"{at}m", "exp_samples": [{"value": n}] if n else []}
            for (at, expr), n in sorted(looks.items())
        ],
    }


def flat(value: int, minutes: int) -> str:
    """The same value for so many minutes."""
    return f"{value}+0x{minutes - 1}"


def gauge(series: str, lasts: int = 0, *, good: int = 0, bad: int = 1) -> Scenario:
    """A gauge that is bad for longer than so many minutes, and good again."""
    length = lasts + _AFTER
    return Scenario(
        {series: f"{flat(good, _CALM)} {flat(bad, length)} {flat(good, _AFTER)}"},
        firing=_CALM + lasts + 1,
        quiet=_CALM + length + _AFTER // 2,
        early=_CALM + lasts - 1 if lasts else None,
    )


def counter(series: str, lasts: int = 0, *, window: int = 5) -> Scenario:
    """A counter that grows for longer than so many minutes. The alert looks at a window of so many
    minutes, so that it goes quiet that much later."""
    length = lasts + _AFTER
    growth = f"3+3x{length - 1}"
    return Scenario(
        {series: f"{flat(0, _CALM)} {growth} {flat(3 * length, window + _AFTER)}"},
        firing=_CALM + lasts + 4,
        quiet=_CALM + length + window + _AFTER // 2,
        early=_CALM + lasts - 1 if lasts else None,
    )


def standstill(counter: str, work: str) -> Scenario:
    """A counter that stands still for half an hour, while the other series says that there is
    work."""
    values = f"0+3x5 {flat(15, 30)} 18+3x15"
    return Scenario({counter: values, work: flat(1, 52)}, firing=24, quiet=45, early=14)


SCENARIOS: Mapping[str, Scenario] = {
    "SagaboxRunStuck": gauge('sagabox_sagas{name="delete-article", status="STUCK"}'),
    "SagaboxStrayEffect": counter("sagabox_stray_effects_total", window=60),
    "SagaboxLateAnswer": counter("sagabox_late_answers_total", window=60),
    "SagaboxNoProgress": standstill(
        'sagabox_saga_transitions_total{job="orchestrator"}',
        'sagabox_sagas{job="orchestrator", name="delete-article", status="RUNNING"}',
    ),
    "SagaboxDeadLetter": gauge('sagabox_outbox_dead_letters{destination="comments"}'),
    "SagaboxKeyBlocked": gauge('sagabox_outbox_blocked_keys{destination="comments"}'),
    "SagaboxDestinationPaused": gauge('sagabox_outbox_pauses{destination="partner"}'),
    "SagaboxMessagesWait": gauge(
        'sagabox_outbox_oldest_seconds{destination="comments"}', 5, bad=61
    ),
    "SagaboxKeysHeld": gauge('sagabox_outbox_held_keys{destination="comments"}', 5),
    "SagaboxReceivedMessageGivenUp": gauge('sagabox_inbox_held_messages{state="dead"}'),
    "SagaboxMessagesNotUnderstood": counter('sagabox_inbox_messages_total{outcome="too-old"}'),
    "SagaboxTooBusy": counter('sagabox_inbox_messages_total{outcome="too-busy"}', 10),
    "SagaboxAnswerMissing": gauge(
        'sagabox_inbox_pending_oldest_seconds{kind="waiting"}', good=86400, bad=86401
    ),
    "SagaboxInboxNotPurged": gauge(
        'sagabox_inbox_stopped_purges{orchestrator="orchestrator", reason="no-way"}', 24 * 60
    ),
    "SagaboxLeaseLost": counter("sagabox_lost_leases_total", window=60),
    "SagaboxRelayDown": gauge("sagabox_relay_running", 1, good=1, bad=0),
    "SagaboxClocksDiffer": gauge('sagabox_clock_skew_seconds{sender="articles"}', 5, bad=-31),
    "SagaboxThreadsGivenUp": gauge("sagabox_handler_threads_given_up", 5),
    "SagaboxCallsFull": gauge("sagabox_outside_calls", 5, good=63, bad=64),
    "SagaboxCallsWithoutAnswer": counter(
        'sagabox_outside_call_seconds_count{result="no-answer"}', 15
    ),
    "SagaboxWorkStalled": gauge('sagabox_work_stalled_seconds{kind="handle messages"}', bad=61),
    "SagaboxDatabaseDown": gauge("sagabox_database_up", 1, good=1, bad=0),
    "SagaboxStrangeAddress": gauge('sagabox_addresses{destination="comments", state="stranger"}'),
    "SagaboxNoAddresses": gauge('sagabox_address_troubles{destination="comments"}', 5),
    "SagaboxBrokerDown": gauge('sagabox_queue_up{broker="nats at queue:4222"}', 5, good=1, bad=0),
    "SagaboxQueueGrows": gauge(
        'sagabox_queue_waiting_packets{broker="nats at queue:4222"}', 15, good=1000, bad=1001
    ),
}
"""By the names of the alerts."""

OTHER_BRANCHES: Sequence[tuple[str, Scenario]] = (
    (
        "SagaboxAnswerMissing",
        gauge('sagabox_inbox_pending_oldest_seconds{kind="calling"}', good=3600, bad=3601),
    ),
    ("SagaboxReceivedMessageGivenUp", gauge('sagabox_inbox_held_messages{state="blocked"}')),
    (
        "SagaboxMessagesNotUnderstood",
        counter('sagabox_inbox_messages_total{outcome="unknown"}'),
    ),
    (
        "SagaboxMessagesNotUnderstood",
        counter('sagabox_inbox_messages_total{outcome="rejected"}'),
    ),
    ("SagaboxClocksDiffer", gauge('sagabox_clock_skew_seconds{sender="articles"}', 5, bad=31)),
)
"""Further ones, where a condition has several branches."""

CALM: Mapping[str, str] = {
    'sagabox_inbox_held_messages{state="waiting"}': flat(5, 60),
    'sagabox_inbox_messages_total{outcome="done"}': "0+3x60",
    'sagabox_outside_call_seconds_count{result="done"}': "0+3x60",
    'sagabox_sagas{job="orchestrator", name="delete-article", status="COMPLETED"}': flat(100, 60),
    'sagabox_sagas{job="orchestrator", name="delete-article", status="RUNNING"}': flat(4, 60),
    'sagabox_saga_transitions_total{job="orchestrator"}': "0+3x60",
    'sagabox_addresses{destination="comments", state="ejected"}': flat(1, 60),
    "sagabox_database_up": flat(1, 60),
    "sagabox_relay_running": flat(1, 60),
    'sagabox_queue_up{broker="nats at queue:4222"}': flat(1, 60),
}
"""What normal operation looks like: no alert fires."""
