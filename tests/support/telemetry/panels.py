"""The panels of the dashboards, and what each asks Prometheus.

Every process of a service shows the same counts of its database: so those are the maximum of the
processes, and what a process counts itself is their sum.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass


@dataclass(frozen=True)
class Panel:
    """One panel. `queries` are by their legends."""

    title: str
    about: str
    queries: Mapping[str, str]
    _: KW_ONLY
    unit: str = "short"
    width: int = 12
    is_number: bool = False
    red_from: float | None = None
    has_exemplars: bool = False
    starts_at_0: bool = True


def number(title: str, about: str, query: str, red_from: float = 1) -> Panel:
    """A number that is 0 in normal operation."""
    return Panel(title, about, {"": query}, width=6, is_number=True, red_from=red_from)


def quantiles(histogram: str, by: str, where: str = "") -> Mapping[str, str]:
    """The median and the slowest of 20, by that label."""
    rate = f'sum(rate({histogram}_bucket{{job=~"$job"{where}}}[$__rate_interval])) by (le, {by})'
    return {
        f"{name} {{{{{by}}}}}": f"histogram_quantile({quantile}, {rate})"
        for name, quantile in {"p50": 0.5, "p95": 0.95}.items()
    }


def shown(metric: str, *by: str) -> str:
    """A count that every process of a service shows."""
    return f'max({metric}{{job=~"$job"}}) by ({", ".join(("job", *by))})'


def rate(metric: str, *by: str) -> str:
    """How fast a count of the processes grows, a second."""
    return f'sum(rate({metric}{{job=~"$job"}}[$__rate_interval])) by ({", ".join(("job", *by))})'


def or_zero(query: str) -> str:
    """Its sum; 0 where Prometheus has nothing, since the metric has no series without a trouble."""
    return f"sum({query}) or vector(0)"


_STUCK = 'max(sagabox_sagas{job=~"$job", status="STUCK"}) by (job, name)'
_UNDER_WAY = 'max(sagabox_sagas{job=~"$job", status=~"RUNNING|COMPENSATING"}) by (job, name)'
_HERE = "{{instance}}"
_THERE = "{{job}} to {{destination}}"

SAGAS = (
    number("Runs that are STUCK", "Each needs a person.", or_zero(_STUCK)),
    number(
        "Stray effects",
        "Actions of the last hour that took effect when their run could not undo them any more.",
        or_zero('increase(sagabox_stray_effects_total{job=~"$job"}[1h])'),
    ),
    number(
        "Late answers",
        "Answers of the last hour for runs that were removed.",
        or_zero('increase(sagabox_late_answers_total{job=~"$job"}[1h])'),
    ),
    Panel(
        "Runs under way",
        "RUNNING and COMPENSATING together.",
        {"": or_zero(_UNDER_WAY)},
        width=6,
        is_number=True,
    ),
    number(
        "Dead letters",
        "Messages that were given up.",
        or_zero(shown("sagabox_outbox_dead_letters", "destination")),
    ),
    Panel(
        "Runs by status",
        "Counted in the database, up to 100,000 of each status.",
        {"{{status}}": f"sum({shown('sagabox_sagas', 'name', 'status')}) by (status)"},
    ),
    Panel(
        "Runs by definition",
        "All statuses together.",
        {"{{name}}": f"sum({shown('sagabox_sagas', 'name', 'status')}) by (name)"},
    ),
    Panel(
        "Transitions",
        "What happened to runs and was committed, by node.",
        {_HERE: rate("sagabox_saga_transitions_total", "instance")},
        unit="ops",
    ),
    Panel(
        "Group commits",
        "Short ones are one statement, long ones a transaction of several.",
        {"{{way}}": rate("sagabox_saga_commits_total", "way")},
        unit="ops",
    ),
    Panel(
        "Time of a request for runs",
        "At the addresses below /sagas. A point leads to its trace.",
        quantiles("sagabox_http_request_seconds", "route", ', route=~"/sagas.*"'),
        unit="s",
        width=24,
        has_exemplars=True,
    ),
)

OUTBOX = (
    number(
        "Dead letters",
        "Messages that were given up.",
        or_zero(shown("sagabox_outbox_dead_letters", "destination")),
    ),
    number(
        "Blocked keys",
        "Keys that wait until an operator redrives or drops a message.",
        or_zero(shown("sagabox_outbox_blocked_keys", "destination")),
    ),
    number(
        "Paused destinations",
        "Nothing is sent there until an operator resumes it.",
        or_zero(shown("sagabox_outbox_pauses", "destination")),
    ),
    number(
        "Oldest message",
        "Seconds for which the oldest message has waited.",
        f"max({shown('sagabox_outbox_oldest_seconds', 'destination')})",
        red_from=60,
    ),
    Panel(
        "Messages that wait",
        "To be sent, or for their answer.",
        {_THERE: shown("sagabox_outbox_unsent_messages", "destination")},
    ),
    Panel(
        "Age of the oldest message",
        "It grows while a destination is away.",
        {_THERE: shown("sagabox_outbox_oldest_seconds", "destination")},
        unit="s",
    ),
    Panel(
        "Time from making to answer",
        "How long a message took, or from the time that it was scheduled for.",
        quantiles("sagabox_relay_latency_seconds", "destination"),
        unit="s",
        has_exemplars=True,
    ),
    Panel(
        "Time of a delivery",
        "How long a destination took for one request.",
        quantiles("sagabox_relay_delivery_seconds", "destination"),
        unit="s",
        has_exemplars=True,
    ),
    Panel(
        "Messages sent",
        "By the answer of the destination.",
        {
            f"{_THERE}: {{{{outcome}}}}": rate(
                "sagabox_relay_messages_total", "destination", "outcome"
            )
        },
        unit="ops",
    ),
    Panel(
        "Messages received",
        "By the answer that they were given.",
        {"{{job}}: {{outcome}}": rate("sagabox_inbox_messages_total", "outcome")},
        unit="ops",
    ),
    Panel(
        "Keys that rest",
        "After a failure of their first message; parked messages stand behind keys that rest long.",
        {
            f"keys, {_THERE}": shown("sagabox_outbox_held_keys", "destination"),
            f"parked, {_THERE}": shown("sagabox_outbox_parked_messages", "destination"),
        },
    ),
    Panel(
        "Scheduled messages",
        "They must not leave yet.",
        {_THERE: shown("sagabox_outbox_scheduled_messages", "destination")},
    ),
    Panel(
        "Pending commands",
        "Their answers come later.",
        {"{{job}}: {{kind}}": shown("sagabox_inbox_pending_commands", "kind")},
    ),
    Panel(
        "Age of the oldest pending command",
        "Since when it waits for its answer.",
        {"{{job}}: {{kind}}": shown("sagabox_inbox_pending_oldest_seconds", "kind")},
        unit="s",
    ),
    Panel(
        "Queues at brokers",
        "Packets that no process is done with.",
        {"{{job}} at {{broker}}": shown("sagabox_queue_waiting_packets", "broker")},
    ),
    Panel(
        "Packets from brokers",
        "What became of them.",
        {"{{job}}: {{outcome}}": rate("sagabox_queue_packets_total", "outcome")},
        unit="ops",
    ),
    Panel(
        "Brokers",
        "Whether each answers, and how many partitions of its queue a process reads.",
        {
            "{{instance}}: {{broker}} answers": 'sagabox_queue_up{job=~"$job"}',
            "{{instance}}: partitions at {{broker}}": 'sagabox_queue_partitions{job=~"$job"}',
        },
    ),
    Panel(
        "Held messages",
        "They came by a broker and could not be handled.",
        {"{{job}}: {{state}}": shown("sagabox_inbox_held_messages", "state")},
    ),
    Panel(
        "Age of the oldest held message",
        "Since when it is held.",
        {"{{job}}: {{state}}": shown("sagabox_inbox_held_oldest_seconds", "state")},
        unit="s",
        width=24,
    ),
)

NODES = (
    Panel(
        "Processes",
        "Whether Prometheus reaches them.",
        {"": 'sum(up{job=~"$job"})'},
        width=6,
        is_number=True,
    ),
    number(
        "Relays that stand still",
        "Nothing leaves those processes.",
        'count(sagabox_relay_running{job=~"$job"} == 0) or vector(0)',
    ),
    number(
        "Lost leases",
        "In the last hour: a process stood still for longer than a lease.",
        or_zero('increase(sagabox_lost_leases_total{job=~"$job"}[1h])'),
    ),
    number(
        "Work that hangs",
        "Seconds without an end of any work of a kind.",
        'max(sagabox_work_stalled_seconds{job=~"$job"})',
        red_from=60,
    ),
    Panel(
        "Requests",
        "By status.",
        {"{{job}}: {{status}}": rate("sagabox_http_request_seconds_count", "status")},
        unit="ops",
    ),
    Panel(
        "Time of a request",
        "By service. A point leads to its trace.",
        quantiles("sagabox_http_request_seconds", "job"),
        unit="s",
        has_exemplars=True,
    ),
    Panel(
        "Work under way",
        "For how long none of its kind has ended.",
        {"{{job}}: {{kind}}": 'max(sagabox_work_stalled_seconds{job=~"$job"}) by (job, kind)'},
        unit="s",
    ),
    Panel(
        "Clocks",
        "By how much the clock of a sender is ahead.",
        {"{{sender}} at {{instance}}": 'sagabox_clock_skew_seconds{job=~"$job"}'},
        unit="s",
        starts_at_0=False,
    ),
    Panel(
        "Addresses",
        "Of destinations: usable, ejected since they failed, or on another database.",
        {"{{instance}} to {{destination}}: {{state}}": 'sagabox_addresses{job=~"$job"}'},
    ),
    Panel(
        "Ejections, strangers and troubles",
        "Addresses that were left out since they failed or have another database, a second; and "
        "whether the last look for addresses failed.",
        {
            f"strangers, {_THERE}": rate("sagabox_address_strangers_total", "destination"),
            f"ejections, {_THERE}": rate("sagabox_address_ejections_total", "destination"),
            f"troubles, {_THERE}": shown("sagabox_address_troubles", "destination"),
        },
    ),
    Panel(
        "Calls to the outside",
        "A process makes at most 64 at once.",
        {_HERE: 'sagabox_outside_calls{job=~"$job"}'},
    ),
    Panel(
        "Results of calls to the outside",
        "No answer is an error of the provider, or the end of the time limit.",
        {"{{job}}: {{result}}": rate("sagabox_outside_call_seconds_count", "result")},
        unit="ops",
    ),
    Panel(
        "Threads that were given up",
        "Plain handlers that still run after their time limit; each uses one of 8 places.",
        {_HERE: 'sagabox_handler_threads_given_up{job=~"$job"}'},
        width=24,
    ),
)

DATABASE = (
    number(
        "Processes without their database",
        "It did not answer the last scrape.",
        'count(sagabox_database_up{job=~"$job"} == 0) or vector(0)',
    ),
    number(
        "Inboxes that are not purged",
        "They only grow.",
        or_zero('max(sagabox_inbox_stopped_purges{job=~"$job"}) by (job, orchestrator)'),
    ),
    number(
        "Requests without a database",
        "Answered 503 in the last five minutes.",
        or_zero('increase(sagabox_http_request_seconds_count{job=~"$job", status="503"}[5m])'),
    ),
    number(
        "Lost leases",
        "In the last hour: a process or its database stood still for longer than a lease.",
        or_zero('increase(sagabox_lost_leases_total{job=~"$job"}[1h])'),
    ),
    Panel(
        "The database answers",
        "1 for yes.",
        {_HERE: 'sagabox_database_up{job=~"$job"}'},
    ),
    Panel(
        "Time of a scrape",
        "A scrape counts in the database: a slow one tells of a slow database.",
        {_HERE: 'scrape_duration_seconds{job=~"$job"}'},
        unit="s",
    ),
    Panel(
        "Commits of runs",
        "By way: short ones are one statement.",
        {"{{instance}}: {{way}}": rate("sagabox_saga_commits_total", "instance", "way")},
        unit="ops",
    ),
    Panel(
        "Transitions in one commit",
        "The more, the better the commits share their cost.",
        {
            "{{job}}": f"{rate('sagabox_saga_transitions_total')} / "
            f"({rate('sagabox_saga_commits_total')} > 0) or {rate('sagabox_saga_commits_total')}"
        },
    ),
    Panel(
        "Work that waits for the database",
        "Commits of runs, transactions of the inbox, and renewals of leases.",
        {
            "{{instance}}: {{kind}}": 'sagabox_work_stalled_seconds{job=~"$job", '
            'kind=~"commit what runs do|handle messages|tend the .*"}'
        },
        unit="s",
    ),
    Panel(
        "Rows",
        "Messages that wait, and runs, as far as they are counted.",
        {
            "messages of {{job}}": f"sum({shown('sagabox_outbox_unsent_messages', 'destination')}) "
            "by (job)",
            "runs of {{job}}": f"sum({shown('sagabox_sagas', 'name', 'status')}) by (job)",
        },
    ),
)
