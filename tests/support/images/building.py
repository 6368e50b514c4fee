"""The steps of a Dockerfile, done in their order without a container engine and without a network.

A base image is the machine's Python (`roots.make_base`). All other steps are done as they stand,
but for one: what a lock lets pip download is copied from the environment of the tests.
"""

from __future__ import annotations

import re
import shutil
from dataclasses import dataclass, field
from pathlib import Path

from tests.support.checkout import ROOT
from tests.support.images import roots
from tests.support.images.containers import Place
from tests.support.images.dockerfile import Context, Metadata, Step, steps

DOCKERFILE = ROOT / "deploy" / "Dockerfile"
BASE = re.compile(r"python:3\.\d+-slim-bookworm(?: AS (?P<name>\w+))?")
_PATH = "/usr/local/bin:/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin"
_DOWNLOAD = re.compile(
    r"pip (?:--python (?P<prefix>/\w+)/bin/python )?install "
    r"--no-cache-dir --require-hashes -r (?P<lock>\S+)"
)


@dataclass
class Stage:
    """What a FROM begins."""

    root: Path
    says: Metadata = field(default_factory=lambda: Metadata(environment={"PATH": _PATH}))


def build(folder: Path) -> Stage:
    """Do the steps of deploy/Dockerfile in this folder; the last stage. Raises AssertionError, or
    the error of the step that failed."""
    base = folder / "base"
    roots.make_base(base)
    context = Context(ROOT)
    stages: dict[str, Stage] = {}
    stage: Stage | None = None
    for step in steps(DOCKERFILE.read_text("utf-8")):
        if step.name == "FROM":
            found = BASE.fullmatch(step.text)
            assert found is not None, f"FROM {step.text}: the tests know no such base"
            stage = Stage(folder / f"stage-{len(stages)}")
            stages[found["name"] or str(len(stages))] = stage
            roots.copy_root(base, stage.root)
            continue
        assert stage is not None
        if not stage.says.take(step):
            _do(step, stage, stages, context)
        elif step.name == "WORKDIR":
            _within(stage, step.text).mkdir(parents=True, exist_ok=True)
    assert stage is not None
    return stage


def _do(step: Step, stage: Stage, stages: dict[str, Stage], context: Context) -> None:
    match step.name:
        case "COPY" if "from" in step.options:
            source, target = step.words()
            roots.copy_tree(
                stages[step.options["from"]].root / source.lstrip("/"), _within(stage, target)
            )
        case "COPY":
            *sources, target = step.words()
            for source in sources:
                _copy(context, source, _within(stage, target), step)
        case "RUN":
            for command in step.commands():
                _run(command, stage)
        case _:
            raise AssertionError(f"{step.name}: the tests do not know that instruction")


def _copy(context: Context, source: str, target: Path, step: Step) -> None:
    is_folder = (ROOT / source).is_dir()
    for path in context.matching(source):
        if is_folder:
            goal = target / path.relative_to(source)
        else:
            goal = target / path.name if target.is_dir() or step.text.endswith("/") else target
        goal.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / path, goal)
        if "chmod" in step.options:
            goal.chmod(int(step.options["chmod"], 8))


def _run(command: str, stage: Stage) -> None:
    if found := _DOWNLOAD.fullmatch(command):
        lock = _within(stage, found["lock"]).read_text("utf-8")
        roots.install_locked(
            roots.locked(lock), roots.site_packages(stage.root, found["prefix"] or "/usr/local")
        )
        return
    ran = Place(stage.root, stage.says, is_read_only=False).run(
        "-c", command, entrypoint=["/bin/sh"]
    )
    assert ran.code == 0, f"RUN {command}\n{ran.out}{ran.err}"


def _within(stage: Stage, path: str) -> Path:
    """The path in the root, from the folder in which the step is done."""
    return stage.root / (Path(stage.says.folder) / path).relative_to("/")
