"""deploy/Dockerfile as it is written; `test_image.py` does its steps."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from collections.abc import Sequence
from pathlib import Path

from packaging.requirements import Requirement

from orchestrator.cli.processes.services import FIRST_PORT, SERVICES
from outbox.chassis.endpoints import health
from tests.support.checkout import ROOT
from tests.support.images.building import BASE, DOCKERFILE
from tests.support.images.dockerfile import Context, Metadata, Step, steps
from tests.support.images.roots import locked

_LOCK = ROOT / "deploy" / "requirements.txt"
_LEFT_OUT = {"parquet"}  # pyarrow alone has as many bytes as all else
_PACKAGES = {"outbox", "orchestrator", "articles", "comments", "migrations"}


def _last_stage() -> Sequence[Step]:
    found = steps(DOCKERFILE.read_text())
    begins = [number for number, step in enumerate(found) if step.name == "FROM"]
    assert len(begins) == 2
    return found[begins[-1] :]


def _metadata() -> Metadata:
    said = Metadata(environment={"PATH": "/usr/bin"})
    for step in _last_stage():
        said.take(step)
    return said


def test_hadolint_finds_nothing_in_the_dockerfile() -> None:
    program = Path(sys.executable).parent / "hadolint"
    ran = subprocess.run([program, DOCKERFILE], capture_output=True, text=True, check=False)
    assert ran.stdout + ran.stderr == ""
    assert ran.returncode == 0


def test_hadolint_finds_a_planted_fault(tmp_path: Path) -> None:
    planted = tmp_path / "Dockerfile"
    planted.write_text(DOCKERFILE.read_text() + "RUN pip install httpx\n")
    program = Path(sys.executable).parent / "hadolint"
    ran = subprocess.run([program, planted], capture_output=True, text=True, check=False)
    assert ran.returncode == 1
    assert "Pin versions in pip" in ran.stdout


def test_both_stages_begin_with_the_same_supported_python() -> None:
    found = [BASE.fullmatch(it.text) for it in steps(DOCKERFILE.read_text()) if it.name == "FROM"]
    tags = {it[0].partition(" ")[0] for it in found if it is not None}
    assert len(found) == 2
    (tag,) = tags
    version = re.findall(r"python:(3\.\d+)", tag)
    classifiers = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["classifiers"]
    assert f"Programming Language :: Python :: {version[0]}" in classifiers


def test_the_image_runs_as_a_user_with_a_number_that_is_not_root_s() -> None:
    # Kubernetes checks runAsNonRoot by the number alone.
    user = _metadata().user
    assert re.fullmatch(r"[1-9]\d{3,}:[1-9]\d{3,}", user)
    (made,) = [it for it in _last_stage() if it.name == "RUN"]
    assert f"sagabox:x:{user}:" in made.text


def test_nothing_stands_between_the_engine_and_the_process_that_hears_the_signal() -> None:
    said = _metadata()
    assert said.entrypoint == ["sagabox"]
    assert said.stop_signal == "SIGTERM"
    # Both are lists, or reading them had failed: a shell would keep the signal to itself.
    assert said.command == ["--help"]


def test_the_image_exposes_the_usual_ports_and_asks_at_them_for_a_probe_that_is_there() -> None:
    usual = sorted(FIRST_PORT + it.offset for it in SERVICES.values())
    script = (ROOT / "deploy" / "healthcheck.py").read_text()
    assert sorted(_metadata().ports) == usual
    assert sorted(map(int, re.findall(r'"(\d+)"', script))) == usual
    (path,) = re.findall(r'^PATH = "(.*)"$', script, re.M)
    source = Path(health.__file__).read_text()
    assert f'"{path}"' in source
    assert '"/readyz"' in source


def test_the_context_is_what_the_steps_copy_and_nothing_else() -> None:
    context = Context(ROOT)
    copied = {
        path
        for step in steps(DOCKERFILE.read_text())
        if step.name == "COPY" and "from" not in step.options
        for source in step.words()[:-1]
        for path in context.matching(source)
    }
    assert copied == set(context.files())
    assert {it.parts[0] for it in copied if len(it.parts) > 1} == _PACKAGES | {
        "deploy",
        "requirements",
    }
    assert not any("__pycache__" in it.parts for it in copied)


def test_what_the_wheel_is_built_from_is_all_in_the_context() -> None:
    wheel = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]
    assert set(wheel["targets"]["wheel"]["only-include"]) == _PACKAGES


def test_the_lock_of_the_image_has_every_extra_and_nothing_that_the_tests_have_not() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    wanted = [
        *project["dependencies"],
        *(it for name in extras if name not in _LEFT_OUT for it in extras[name]),
    ]
    found = {it.name: it for it in locked(_LOCK.read_text())}
    for text in wanted:
        requirement = Requirement(text)
        if requirement.marker is None or requirement.marker.evaluate():
            (version,) = [it.version for it in found[requirement.name].specifier]
            assert requirement.specifier.contains(version), text
    tested = _entries(ROOT / "requirements" / "test.txt")
    assert [it for it in _entries(_LOCK) if it not in tested] == []
    assert "pyarrow" not in found


def _entries(lock: Path) -> Sequence[str]:
    """Each requirement with its version and hashes; its marker is another where it is there for
    other reasons."""
    joined = re.sub(r"\s*\\\n\s*", " ", lock.read_text())
    lines = [it for it in joined.splitlines() if it and not it.startswith("#")]
    return [re.sub(r" ;.*?(?= --hash)", "", it) for it in lines]
