"""The pages on containers and platforms: their commands, files and figures are there."""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path

import pytest

from outbox.transports.http.peers import peers_in
from outbox.transports.http.signing import Keyring
from tests.support.checkout import ROOT
from tests.support.images import composed
from tests.support.images.told import require_command
from tests.support.repository.manual import blocks, commands

_CONTAINERS, _PLATFORMS = "docs/operate/containers.md", "docs/operate/paas.md"
_COMPATIBILITY = "docs/operate/compatibility.md"
_RUN, _NOT_RUN = "# Run by the tests", "# Not run here: "


def _words(page: str, program: str) -> list[list[str]]:
    found = [shlex.split(it) for it in commands(page, "sh")]
    return [it[1:] for it in found if it[0] == program]


@pytest.mark.parametrize("page", [_CONTAINERS, _PLATFORMS, _COMPATIBILITY])
def test_every_block_of_commands_says_whether_it_was_run(page: str) -> None:
    shown = blocks(page, "sh")
    assert shown
    assert [it for it in shown if not it.startswith((_RUN, _NOT_RUN))] == []
    # What has no language is no command, but a setting.
    assert [it for it in blocks(page, "") if not it.startswith("SAGABOX_")] == []


def test_the_files_for_the_units_are_written_as_the_page_does_it(tmp_path: Path) -> None:
    (block,) = (it for it in blocks(_PLATFORMS, "sh") if it.startswith(_RUN))
    (tmp_path / "credentials").mkdir()
    assert block.count("/etc/sagabox/") == 3
    script = block.replace("/etc/sagabox/", f"{tmp_path}/")
    subprocess.run(["bash", "-euc", script], check=True, timeout=60)
    settings = (tmp_path / "settings.env").read_text().strip()
    variable, _, peers = settings.partition("=")
    assert variable == "SAGABOX_PEERS"
    assert peers_in(peers).keys() == {"orchestrator", "articles"}
    units = {it.name: it.read_text() for it in (ROOT / "deploy" / "systemd").iterdir()}
    named = re.findall(r"LoadCredential=\w+:(\S+)", units["sagabox-orchestrator@.service"])
    written = {f"/etc/sagabox/credentials/{it.name}" for it in (tmp_path / "credentials").iterdir()}
    assert set(named) == written
    # Raises InvalidSettings where these are no keys.
    Keyring.from_text((tmp_path / "credentials" / "signing").read_text().strip(), 60)
    address = (tmp_path / "credentials" / "orchestrator-database").read_text().strip()
    assert address.startswith("postgresql://")


def test_what_is_typed_at_docker_is_about_files_and_containers_that_are_there() -> None:
    typed = _words(_CONTAINERS, "docker")
    assert len(typed) == 8
    for words in typed:
        assert words[0] == "compose"
        files = [words[at + 1] for at, it in enumerate(words) if it in ("-f", "--env-file")]
        assert files
        assert all((ROOT / it).is_file() for it in files)
        if "exec" in words:
            at = words.index("sagabox")
            assert words[at - 1] in composed.serving()
            require_command(words[at + 1 :])


@pytest.mark.parametrize("page", [_CONTAINERS, _PLATFORMS])
def test_each_file_of_deploy_that_a_page_names_is_there_or_made_by_a_neighbour(page: str) -> None:
    named = set(re.findall(r"deploy/[\w./@-]*\w", (ROOT / page).read_text()))
    assert len(named) >= 2
    made_elsewhere = {"deploy/envoy/edge.yaml", "deploy/prometheus", "deploy/grafana"}
    made_by_the_script = {it for it in named if it.startswith("deploy/secrets")}
    missing = [it for it in named - made_elsewhere - made_by_the_script if not _is_there(it)]
    assert missing == []


def _is_there(path: str) -> bool:
    return bool(list(ROOT.glob(f"{path}*")))


def test_the_table_of_containers_is_that_of_the_file() -> None:
    page = (ROOT / _CONTAINERS).read_text()
    section = page.partition("## What is in compose.yaml\n")[2].partition("\n## ")[0]
    named = [it for row in re.findall(r"^\| (`.*?) \|", section, re.M) for it in row.split(", ")]
    assert sorted(it.strip("`") for it in named) == sorted(composed.services())


def test_the_ports_on_the_page_are_those_that_are_published() -> None:
    page = (ROOT / _CONTAINERS).read_text()
    section = page.partition("## In ten minutes\n")[2].partition("\n## ")[0]
    named = re.findall(r"^\| `http://localhost:(\d+)` \|", section, re.M)
    published = [
        port.split(":")[1] for it in composed.services().values() for port in composed.ports(it)
    ]
    assert sorted(named) == sorted(published)


def test_the_commands_for_a_platform_are_ones_that_the_terminal_takes() -> None:
    typed = _words(_PLATFORMS, "sagabox")
    assert len(typed) == 1
    for words in typed:
        require_command(words)


def test_the_commands_after_a_roll_are_ones_that_the_terminal_takes() -> None:
    typed = _words(_COMPATIBILITY, "sagabox")
    assert len(typed) == 3
    for words in typed:
        require_command(words)


def test_the_image_of_one_s_own_on_the_page_is_a_dockerfile_that_ends_without_root() -> None:
    (shown,) = blocks(_CONTAINERS, "dockerfile")
    users = re.findall(r"^USER (.*)$", shown, re.M)
    assert users == ["root", "10001:10001"]
    assert "SAGABOX_SAGAS=" in shown
