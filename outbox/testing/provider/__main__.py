"""`python -m outbox.testing.provider`: a fake provider as a process."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import uvicorn

from outbox.testing.provider.app import provider
from outbox.testing.provider.ledger import Ledger
from outbox.testing.provider.modes import KINDS


def main(args: Sequence[str] | None = None) -> None:
    """Serve at 127.0.0.1 until SIGTERM."""
    parser = argparse.ArgumentParser(prog="python -m outbox.testing.provider")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument(
        "--database", type=Path, required=True, help="a SQLite file, made if need be"
    )
    for kind in KINDS:
        parser.add_argument(
            f"--{kind}", type=json.loads, default={}, help=f"modes of {kind}, as JSON"
        )
    given = parser.parse_args(args)
    ledger = Ledger(given.database)
    for kind in KINDS:
        ledger.change_modes(kind, getattr(given, kind))
    uvicorn.run(provider(given.database), port=given.port, log_level="critical")


if __name__ == "__main__":
    main()
