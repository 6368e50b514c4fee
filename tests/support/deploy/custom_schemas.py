"""The schemas of Istio, KEDA and the Prometheus operator, as Node.js has them."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.support.deploy.rendering import Manifest
from tests.support.deploy.tools import FOLDER, node

_SCRIPT = Path(__file__).with_name("custom_schemas.mjs")
_PATIENCE = 120.0  # seconds; a machine may have much else to do


def problems_of_custom(manifests: Sequence[Manifest]) -> Mapping[str, str]:
    """What their schemas have against these custom resources, by kind and name. Skips the test
    where the schemas are not installed."""
    ran = subprocess.run(
        [node(), str(_SCRIPT), str(FOLDER)],
        input=json.dumps(manifests),
        capture_output=True,
        text=True,
        check=False,
        timeout=_PATIENCE,
    )
    assert ran.returncode == 0, ran.stderr
    found: dict[str, str] = json.loads(ran.stdout)
    return found
