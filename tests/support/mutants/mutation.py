"""The state machine with one line changed, to see that a test would notice."""

from __future__ import annotations

import inspect
import sys
from types import ModuleType
from unittest.mock import patch

from orchestrator.machine import (
    answers,
    later_answers,
    machine,
    operators,
    results,
    skipping,
    timers,
    transition_builder,
    turning_back,
)

PARTS = (
    transition_builder,
    turning_back,
    later_answers,
    results,
    skipping,
    answers,
    timers,
    operators,
    machine,
)
"""The modules of the machine; each imports only those before it."""


def mutated_machine(right: str, wrong: str) -> ModuleType:
    """A copy of `orchestrator.machine.machine` with `wrong` in place of `right`, which stands
    exactly once in all PARTS.

    The copy uses copies of the other parts. Other modules go on using the real ones.
    """
    sources = {part.__name__: inspect.getsource(part) for part in PARTS}
    places = [name for name, source in sources.items() for _ in range(source.count(right))]
    assert len(places) == 1, f"{right!r} stands in {places or 'no part of the machine'}, not once"
    mutant = machine
    with patch.dict(sys.modules):
        for name, source in sources.items():
            mutant = sys.modules[name] = ModuleType(name)
            code = compile(source.replace(right, wrong), f"<mutant of {name}>", "exec")
            exec(code, mutant.__dict__)
    return mutant
