"""Names of a package that are imported at their first use.

A pytest plugin is loaded in every project that has Sagabox installed, and its packages with it; a
module of contracts is imported by every service that sends its commands. Neither may load a web
framework, an HTTP client or a database engine before something needs it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection, Mapping
from importlib import import_module


def names_of(
    package: str, homes: Mapping[str, str], *, modules: Collection[str] = ()
) -> Callable[[str], object]:
    """The `__getattr__` of a package: each name is taken from the module that `homes` gives.

    A name that is also in `modules` is that module itself. Raises AttributeError for other names.
    """

    def find(name: str) -> object:
        home = homes.get(name)
        if home is None:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        module = import_module(home)
        found: object = module if name in modules else getattr(module, name)
        setattr(sys.modules[package], name, found)
        return found

    return find
