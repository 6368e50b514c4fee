"""Every accident of a history, decided by its seed.

Each decision depends on the seed, its kind and how many of its kind there were before, and on
nothing else: taking one fault away leaves the others where they were, as far as they are still
asked for. That is what lets a failure shrink.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntEnum

_LIMIT = 1 << 64
_MASK = _LIMIT - 1


class Fault(IntEnum):
    """What can go wrong."""

    REQUEST_LOST = 1
    """A request never arrives."""
    ANSWER_LOST = 2
    """It arrives, and its answer does not."""
    DUPLICATE = 3
    """A copy of a request arrives some time later."""
    DELAY = 4
    """A request arrives when its sender waits no longer."""
    PARTITION = 5
    """A participant cannot be reached for a while."""
    NODE_CRASH = 6
    """The orchestrator's process dies at a crash point."""
    NODE_PAUSE = 7
    """It stands still for a while, perhaps past its lease."""
    COMMIT_LOST = 8
    """It commits, and is not told so."""
    COMMIT_FAILED = 9
    """It does not commit, and is not told which."""
    DATABASE_AWAY = 10
    """The orchestrator's database refuses all connections for a while."""
    SERVICE_CRASH = 11
    """A participant dies before or after its commit."""
    HANDLER_FAILS = 12
    """A handler raises an error, and would not the next time."""
    LOCKED = 13
    """Another operation holds the entity."""
    REFUSED = 14
    """A participant says no to what may be refused."""
    REFUSED_LATE = 15
    """A participant says no to what must succeed."""
    POISON = 16
    """A handler fails for one command as long as the trouble lasts."""
    START_TWICE = 17
    """A start is asked for again."""
    CANCEL = 18
    """A person cancels."""
    PAUSE = 19
    """A person pauses the run, and resumes it later."""
    SKEW = 20
    """A clock is wrong by up to a quarter of an hour, or jumps."""
    ONGOING = 21
    """A participant has begun, and is not done yet."""
    TERMINATE = 22
    """A person ends the run, without undoing anything."""
    ACCEPTED = 23
    """A command is only taken, as by a broker; it arrives later, and its answer is a message."""
    OUTLASTS = 24
    """A handler outlasts its delivery, which is answered that it goes on."""
    LATER = 25
    """A start is for a time to come."""
    PENDING = 26
    """A handler answers later, by a message of its own."""
    CALL = 27
    """The commands of a type are answered by calls to the outside."""
    HANG = 28
    """Such a call gets no answer in its time: its process dies, or it ends late."""
    BROKER_AWAY = 29
    """A broker cannot be reached for a while."""
    UNCONFIRMED = 30
    """A broker does not say that it has packets: it has some of them, and the others later, or
    never."""
    LATE_CONFIRM = 31
    """It says so late, when they may be answered."""
    REDELIVERED = 32
    """A broker has packets twice, or gives them out again."""
    SPLIT = 33
    """It gives out a part of what is there."""
    INTERLEAVED = 34
    """It lets a packet overtake those of other keys."""
    READER_CRASH = 35
    """What reads a queue, or tries again what was set aside, dies anywhere."""
    TAKEOVER = 36
    """Another reader takes a partition over from one that is at work and stands still."""
    FORGOTTEN = 37
    """A participant forgets the commands of runs that have ended, and copies come after that."""
    SKIP = 38
    """A person skips a step whose command may still be in a broker."""
    REMOVED = 39
    """Runs that have ended are archived and removed, before the last copies have come."""
    UNDER_WAY = 40
    """A start comes that was made days ago."""
    START_LATE = 41
    """A copy of a start comes late, where runs are removed."""
    REMOVER_CRASH = 42
    """The process that removes runs dies at a crash point."""


OF_BROKERS = frozenset(
    {
        Fault.BROKER_AWAY,
        Fault.UNCONFIRMED,
        Fault.LATE_CONFIRM,
        Fault.REDELIVERED,
        Fault.SPLIT,
        Fault.INTERLEAVED,
        Fault.READER_CRASH,
        Fault.TAKEOVER,
        Fault.FORGOTTEN,
        Fault.SKIP,
    }
)
"""Those that need a broker on the way."""
OF_REMOVAL = frozenset({Fault.REMOVED, Fault.UNDER_WAY, Fault.START_LATE, Fault.REMOVER_CRASH})
"""Those that are about runs that were removed."""


class Number(IntEnum):
    """The kinds of numbers that a history draws, other than for faults."""

    LATENCY = 101
    JITTER = 102
    SHAPE = 103
    SWARM = 104
    RATE = 105
    LENGTH = 106
    WHEN = 107
    ENTROPY = 108
    WISH = 109
    CALL = 110
    DATABASE = 111
    PACE = 112
    BROKER = 113


Happened = tuple[Fault, int]
"""A fault, and which of its kind it was."""


class Chances:
    """The chances of one history. With `only`, no other faults happen than those."""

    def __init__(self, seed: int, only: frozenset[Happened] | None = None) -> None:
        self.happened: list[Happened] = []
        """The faults so far."""
        self.rates: Mapping[Fault, float] = {}
        """How likely each is, each time that it could happen; what is left out never does."""
        self._seed = _mixed(seed)
        self._only = only
        self._counts: dict[int, int] = {}
        """The place of the last number of each kind, from 0."""

    def number(self, kind: int) -> float:
        """The next number of that kind, in [0, 1)."""
        counts = self._counts
        counts[kind] = count = counts.get(kind, -1) + 1
        return _mixed(self._seed ^ (kind << 40) ^ count) / _LIMIT

    def between(self, kind: int, low: float, high: float) -> float:
        """The next number of that kind, from `low` to `high`."""
        return low + (high - low) * self.number(kind)

    def below(self, kind: int, limit: int) -> int:
        """The next whole number of that kind, from 0 to below `limit`."""
        return int(self.number(kind) * limit)

    def fault(self, fault: Fault) -> bool:
        """Whether that fault happens now."""
        rate = self.rates.get(fault)
        if not rate:
            return False
        if self.number(fault) >= rate:
            return False
        count = self._counts[fault]
        if self._only is not None and (fault, count) not in self._only:
            return False
        self.happened.append((fault, count))
        return True

    def entropy(self, size: int) -> bytes:
        """So many bytes, at most 16."""
        high, low = self.number(Number.ENTROPY), self.number(Number.ENTROPY)
        bits = int(high * (1 << 53)) << 64 | int(low * (1 << 53)) << 8
        return (bits & ((1 << 8 * size) - 1)).to_bytes(size, "big")


def _mixed(value: int) -> int:
    """The finaliser of splitmix64: neighbours come out far apart."""
    value = (value + 0x9E3779B97F4A7C15) & _MASK
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & _MASK
    return value ^ (value >> 31)
