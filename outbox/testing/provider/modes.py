"""What a fake provider does wrong."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Literal

Kind = Literal["charges", "refunds", "orders", "cancels"]
KINDS: tuple[Kind, ...] = ("charges", "refunds", "orders", "cancels")

Fault = Literal["fail_before", "die_before", "fail_after", "cut_after", "die_after"]
FAULTS: tuple[Fault, ...] = ("fail_before", "die_before", "fail_after", "cut_after", "die_after")


@dataclass(frozen=True)
class Modes:
    """The behaviour to requests of one kind. A number of requests (`int`) is that of the next ones;
    each counts down, and where several are set the first of this list has its turn first.

    - `keyed`: a key that was seen before gets its first answer again; without it each request has
      an effect of its own.
    - `forget_keys_after`: seconds after which a key counts as new.
    - `slow`: seconds that pass before the effect. It comes although the caller has gone.
    - `fail_before`, `die_before`: no effect; a 500, or the process kills itself.
    - `fail_after`, `cut_after`, `die_after`: the effect; then a 500, a cut connection, or death.
    - `refuse`: no effect, and `refuse_status` (402, 409), unless the key has an answer already.
    - `reject`: of orders, taken and later rejected.
    - `webhook_after`: seconds from an order to its webhooks; `webhook_times`: how often each is
      sent; `webhook_backwards`: the last news first.
    """

    keyed: bool = True
    forget_keys_after: float | None = None
    slow: float = 0.0
    fail_before: int = 0
    die_before: int = 0
    fail_after: int = 0
    cut_after: int = 0
    die_after: int = 0
    refuse: int = 0
    refuse_status: int = 402
    reject: int = 0
    webhook_after: float = 0.0
    webhook_times: int = 1
    webhook_backwards: bool = False

    def changed(self, changes: Mapping[str, Any]) -> Modes:
        """The same with these changes. Raises ValueError where one is none of a mode."""
        for name, value in changes.items():
            if name not in _TYPES:
                raise ValueError(f"there is no mode {name!r}; there are {', '.join(_TYPES)}")
            if not _fits(value, _TYPES[name]):
                raise ValueError(f"the mode {name!r} is {_TYPES[name]}, not {value!r}")
        return replace(self, **changes)

    def dumps(self) -> str:
        """As JSON."""
        return json.dumps(asdict(self))


_TYPES = {field.name: str(field.type) for field in fields(Modes)}


def _fits(value: object, type: str) -> bool:
    if type == "bool":
        return isinstance(value, bool)
    if value is None:
        return type == "float | None"
    numbers = (int,) if type == "int" else (int, float)
    return isinstance(value, numbers) and not isinstance(value, bool) and value >= 0
