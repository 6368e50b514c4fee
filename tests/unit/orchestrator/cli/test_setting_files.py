"""SAGABOX_X_FILE: a setting that stands in a file."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.cli.services.setting_files import MAX_FILE_BYTES, read_setting_files
from orchestrator.cli.terminal.errors import CommandError, ExitCode
from tests.support.checkout import ROOT


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A file with a setting."""
    path = tmp_path / "signing"
    path.write_text("  one:c2VjcmV0 \n")
    return path


def test_the_text_of_the_file_takes_the_place_of_its_name(file: Path) -> None:
    environment = {"SAGABOX_SECRETS_FILE": str(file), "PATH": "/bin"}
    read_setting_files(environment)
    # A child process finds the setting once, and not a file for it besides.
    assert environment == {"SAGABOX_SECRETS": "one:c2VjcmV0", "PATH": "/bin"}


def test_any_setting_may_stand_in_a_file_also_of_a_service_of_one_s_own(file: Path) -> None:
    environment = {"SAGABOX_DATABASE_URL_MY_SHOP_FILE": str(file)}
    read_setting_files(environment)
    assert environment == {"SAGABOX_DATABASE_URL_MY_SHOP": "one:c2VjcmV0"}


@pytest.mark.parametrize(
    "name", ["POSTGRES_PASSWORD_FILE", "SAGABOX_FILE", "SAGABOX_FILES", "FILE"]
)
def test_variables_of_others_are_left_alone(file: Path, name: str) -> None:
    environment = {name: str(file)}
    read_setting_files(environment)
    assert environment == {name: str(file)}


def test_a_variable_that_is_set_to_nothing_names_no_file() -> None:
    environment = {"SAGABOX_TOKEN_FILE": "", "SAGABOX_TOKEN": "sgb_x"}
    read_setting_files(environment)
    assert environment["SAGABOX_TOKEN"] == "sgb_x"


def test_a_setting_that_is_empty_is_none_beside_a_file(file: Path) -> None:
    environment = {"SAGABOX_SECRETS_FILE": str(file), "SAGABOX_SECRETS": ""}
    read_setting_files(environment)
    assert environment["SAGABOX_SECRETS"] == "one:c2VjcmV0"


def test_a_setting_is_refused_that_is_given_both_ways(file: Path) -> None:
    environment = {"SAGABOX_SECRETS_FILE": str(file), "SAGABOX_SECRETS": "two:b3RoZXI="}
    before = dict(environment)
    with pytest.raises(CommandError, match="SAGABOX_SECRETS is set twice") as found:
        read_setting_files(environment)
    assert environment == before
    assert "b3RoZXI" not in str(found.value)


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (None, "No such file"),
        (b"", "it is empty"),
        (b" \n", "it is empty"),
        (b"one\ntwo\n", "one line"),
        (b"one\0", "one line"),
        (b"\xff\xfe", "not UTF-8"),
        (b"x" * (MAX_FILE_BYTES + 1), "more than 65536 bytes"),
    ],
    ids=["missing", "empty", "blank", "lines", "nul", "bytes", "large"],
)
def test_a_file_is_refused_that_cannot_be_a_setting(
    tmp_path: Path, content: bytes | None, why: str
) -> None:
    path, good = tmp_path / "secret", tmp_path / "good"
    good.write_text("fine")
    if content is not None:
        path.write_bytes(content)
    environment = {"SAGABOX_SIGNING_KEY_FILE": str(good), "SAGABOX_SECRETS_FILE": str(path)}
    before = dict(environment)
    with pytest.raises(CommandError, match="the file that SAGABOX_SECRETS_FILE names") as found:
        read_setting_files(environment)
    assert why in found.value.why
    assert found.value.exit_code is ExitCode.REFUSED
    # Not one of them, also of those that are good.
    assert environment == before


def test_a_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CommandError, match="Is a directory"):
        read_setting_files({"SAGABOX_TOKEN_FILE": str(tmp_path)})


def test_the_largest_file_is_taken(tmp_path: Path) -> None:
    path = tmp_path / "large"
    path.write_bytes(b"x" * MAX_FILE_BYTES)
    environment = {"SAGABOX_PEERS_FILE": str(path)}
    read_setting_files(environment)
    assert len(environment["SAGABOX_PEERS"]) == MAX_FILE_BYTES


def test_the_page_tells_the_limit() -> None:
    page = (ROOT / "docs" / "operate" / "configuration.md").read_text()
    section = page.partition("## Settings in files\n")[2].partition("\n## ")[0]
    assert f"{MAX_FILE_BYTES // 1024} KiB" in section
