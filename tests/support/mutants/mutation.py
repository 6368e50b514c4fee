"""A module with one line changed, to see that a test would notice."""

from __future__ import annotations

import inspect
from types import ModuleType


def mutated(module: ModuleType, right: str, wrong: str) -> ModuleType:
    """A copy of the module with `wrong` in place of `right`, which stands in it exactly once.

    Other modules go on using the real one.
    """
    source = inspect.getsource(module)
    assert source.count(right) == 1, f"{right!r} stands {source.count(right)} times in {module}"
    mutant = ModuleType(f"{module.__name__}_mutant")
    code = compile(source.replace(right, wrong), f"<mutant of {module.__name__}>", "exec")
    exec(code, mutant.__dict__)
    return mutant
