"""The folder of the blog and the migrations, and the environment of those who import them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from orchestrator import bundled
from tests.support.checkout import ROOT


def _complete(folder: Path) -> Path:
    for package in bundled.PACKAGES:
        (folder / package).mkdir(parents=True)
        (folder / package / "__init__.py").touch()
    return folder


def test_in_a_checkout_the_folder_is_the_root_of_the_repository() -> None:
    assert bundled.directory() == ROOT


def test_an_installed_package_uses_the_files_within_it_and_not_those_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed = tmp_path / "site-packages" / "orchestrator"
    inside = _complete(installed / "_bundled")
    _complete(tmp_path / "site-packages")  # packages of that name that another project installed
    monkeypatch.setattr(bundled, "_HERE", installed)
    assert bundled.directory() == inside


def test_an_incomplete_installation_is_refused_with_the_command_that_mends_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = _complete(tmp_path / "orchestrator" / "_bundled")
    (folder / "comments" / "__init__.py").unlink()
    monkeypatch.setattr(bundled, "_HERE", tmp_path / "orchestrator")
    with pytest.raises(bundled.BundleMissing, match=r"_bundled.*pip install --force-reinstall"):
        bundled.directory()


def test_a_child_finds_the_folder_first_and_never_its_working_directory() -> None:
    child = bundled.child_environment({"PATH": "/bin"})
    assert child == {"PATH": "/bin", "PYTHONPATH": str(ROOT), "PYTHONSAFEPATH": "1"}


def test_what_was_on_the_path_stays_on_it_behind_the_folder() -> None:
    base = {"PYTHONPATH": os.pathsep.join(["/their/code", str(ROOT), "", "/more"])}
    path = bundled.child_environment(base)["PYTHONPATH"].split(os.pathsep)
    assert path == [str(ROOT), "/their/code", "/more"]


def test_the_environment_that_was_given_is_not_changed() -> None:
    base = {"PYTHONPATH": "/their/code"}
    bundled.child_environment(base)
    assert base == {"PYTHONPATH": "/their/code"}
