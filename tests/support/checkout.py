"""Where the checkout is that is tested, and what of it many tests read."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
"""The root of the checkout."""

CERTIFICATE = ROOT / "tests" / "support" / "loopback.pem"
"""The certificate of servers on loopback, with its key."""
