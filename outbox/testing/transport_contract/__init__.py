"""The contract that every transport keeps, as tests that its author runs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from outbox.lazy_names import names_of as _names_of

if TYPE_CHECKING:
    from outbox.testing.transport_contract.bench import BrokenPromise
    from outbox.testing.transport_contract.line import (
        Confirms,
        Connect,
        Features,
        Line,
        Order,
        Receive,
        Settled,
    )
    from outbox.testing.transport_contract.suite import ContractTest, contract_tests

__all__ = [
    "BrokenPromise",
    "Confirms",
    "Connect",
    "contract_tests",
    "ContractTest",
    "Features",
    "Line",
    "Order",
    "Receive",
    "Settled",
]

_HOMES = {
    "BrokenPromise": "outbox.testing.transport_contract.bench",
    "Confirms": "outbox.testing.transport_contract.line",
    "Connect": "outbox.testing.transport_contract.line",
    "contract_tests": "outbox.testing.transport_contract.suite",
    "ContractTest": "outbox.testing.transport_contract.suite",
    "Features": "outbox.testing.transport_contract.line",
    "Line": "outbox.testing.transport_contract.line",
    "Order": "outbox.testing.transport_contract.line",
    "Receive": "outbox.testing.transport_contract.line",
    "Settled": "outbox.testing.transport_contract.line",
}
if not TYPE_CHECKING:
    # A type checker would take any name then.
    __getattr__ = _names_of(__name__, _HOMES)
