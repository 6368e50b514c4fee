"""The wheel beside a project that has its own `articles` and `migrations`: they never clash."""

from __future__ import annotations

import email
import os
import subprocess
import sys
import sysconfig
import zipfile
from dataclasses import dataclass
from pathlib import Path

import pytest

from orchestrator.bundled import PACKAGES
from tests.support.checkout import ROOT

_INSTALLED = ("outbox", "orchestrator")


@dataclass(frozen=True)
class Project:
    """A user's project with a virtual environment that has the wheel installed."""

    folder: Path
    scripts: Path
    site_packages: Path

    def python(self, *arguments: str, code: int = 0) -> str:
        """What Python says when it is run in the project's folder."""
        return self.run(self.scripts / "python", *arguments, code=code)

    def run(self, *command: str | Path, code: int = 0) -> str:
        """What the command says. Fails the test where it does not end with `code`."""
        environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
        run = subprocess.run(
            [*command],
            cwd=self.folder,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=250,
        )
        assert run.returncode == code, run.stdout + run.stderr
        return run.stdout.strip()


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of this checkout, built without a network."""
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)],
        cwd=ROOT,
        check=True,
        capture_output=True,
        timeout=250,
    )
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def project(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A project with packages of the same names as the blog's, and the wheel beside it."""
    root = tmp_path_factory.mktemp("their")
    folder, venv = root / "project", root / "venv"
    for package in PACKAGES:
        (folder / package).mkdir(parents=True)
        (folder / package / "__init__.py").write_text("OWNER = 'their own'\n")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", venv], check=True, timeout=250)
    scripts, site_packages = venv / "bin", Path(_path_within(venv))
    # The dependencies are those that the tests run on. Of a folder that is named in this way Python
    # reads no further .pth file, so that the checkout, which is installed there, stays out.
    (site_packages / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    pip: list[str | Path] = [sys.executable, "-m", "pip", "--python", scripts / "python"]
    options = ["--quiet", "--no-index", "--no-deps", "--ignore-installed"]
    subprocess.run([*pip, "install", *options, wheel], check=True, timeout=250)
    return Project(folder, scripts, site_packages)


def _path_within(venv: Path) -> str:
    return sysconfig.get_path("purelib", "venv", {"base": str(venv), "platbase": str(venv)})


def _files(folder: Path) -> set[str]:
    return {
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }


@pytest.mark.parametrize("package", PACKAGES)
def test_the_user_s_own_package_of_that_name_is_the_one_that_is_imported(
    project: Project, package: str
) -> None:
    said = project.python("-c", f"import outbox, orchestrator, {package}; print({package}.OWNER)")
    assert said == "their own"


@pytest.mark.parametrize("package", PACKAGES)
def test_without_a_package_of_that_name_there_is_none(project: Project, package: str) -> None:
    # -P: the project's folder is not on the path.
    said = project.python(
        "-P", "-c", f"import importlib.util as it; print(it.find_spec({package!r}))"
    )
    assert said == "None"


@pytest.mark.parametrize("package", _INSTALLED)
def test_the_installed_packages_come_from_the_wheel_and_are_typed(
    project: Project, package: str
) -> None:
    file = project.python("-c", f"import {package}; print({package}.__file__)")
    assert Path(file).parent == project.site_packages / package
    assert (project.site_packages / package / "py.typed").is_file()


def test_the_wheel_puts_nothing_else_on_the_top_level(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        top = {name.partition("/")[0] for name in archive.namelist()}
    assert top == {*_INSTALLED, "sagabox-0.1.0.dist-info"}


@pytest.mark.parametrize("package", _INSTALLED)
def test_the_installed_packages_are_complete(project: Project, package: str) -> None:
    shipped = _files(project.site_packages / package)
    shipped = {name for name in shipped if not name.startswith("_bundled/")}
    assert shipped == _files(ROOT / package)


@pytest.mark.parametrize("package", PACKAGES)
def test_the_bundled_packages_are_complete(project: Project, package: str) -> None:
    bundle = project.site_packages / "orchestrator" / "_bundled"
    assert _files(bundle / package) == _files(ROOT / package)


_CHILD = """
import os, subprocess, sys
from orchestrator.bundled import child_environment
code = "import articles, comments, migrations; print(articles.__file__)"
sys.exit(subprocess.run([sys.executable, "-c", code], env=child_environment(os.environ)).returncode)
"""


def test_a_child_process_in_the_user_s_folder_gets_the_bundled_packages(project: Project) -> None:
    bundle = project.site_packages / "orchestrator" / "_bundled"
    assert project.python("-c", _CHILD) == str(bundle / "articles" / "__init__.py")


def test_the_command_is_installed_and_says_what_it_can_do(project: Project) -> None:
    said = project.run(project.scripts / "sagabox", "--help")
    for command in ("serve", "dev", "demo", "migrate"):
        assert command in said


def test_the_metadata_names_python_the_licence_and_every_extra(project: Project) -> None:
    file = project.site_packages / "sagabox-0.1.0.dist-info" / "METADATA"
    metadata = email.message_from_string(file.read_text("utf-8"))
    assert metadata["Requires-Python"] == ">=3.11"
    assert metadata["License-Expression"] == "Apache-2.0"
    assert metadata.get_all("Provides-Extra") == [
        "grpc",
        "kafka",
        "nats",
        "otlp",
        "parquet",
        "psycopg",
        "rabbitmq",
        "redis",
        "s3",
    ]


def test_the_fixtures_for_pytest_are_there_without_any_configuration(project: Project) -> None:
    (project.folder / "test_theirs.py").write_text(
        "def test_theirs(crash_points, saga_world, async_saga_world):\n"
        "    assert 'engine: before commit' in crash_points.names\n"
    )
    said = project.python("-m", "pytest", "-q", "-p", "no:asyncio", "test_theirs.py")
    assert "1 passed" in said
