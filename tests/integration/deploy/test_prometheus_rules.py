"""The rules of Prometheus: one for each row of the table of alerts, each of which fires in its
trouble, and goes quiet after it."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pytest
import yaml  # type: ignore[import-untyped]  # PyYAML comes without types

from tests.support.checkout import ROOT
from tests.support.images.told import require_command
from tests.support.telemetry.prometheus import promtool
from tests.support.telemetry.rules import FOLDER, PAGE, Rule, files, metrics_in, rows, rules
from tests.support.telemetry.scenarios import CALM, OTHER_BRANCHES, SCENARIOS, a_test

RULES = rules()


def test_each_row_of_the_table_is_a_rule_and_each_rule_a_row() -> None:
    of_table = Counter((it.condition, it.lasts) for it in rows())
    assert len(of_table) == 26
    assert Counter((it.expression, it.lasts) for it in RULES) == of_table


def test_names_are_unique_and_severities_are_two() -> None:
    assert len({it.alert for it in RULES}) == len(RULES)
    assert all(re.fullmatch("Sagabox([A-Z][a-z]+)+", it.alert) for it in RULES)
    assert {it.severity for it in RULES} == {"critical", "warning"}
    assert all(len(it.summary) > 10 and not it.summary.endswith(".") for it in RULES)


@pytest.mark.parametrize("rule", RULES, ids=lambda it: it.alert)
def test_the_runbook_of_a_rule_is_there(rule: Rule) -> None:
    path, _, anchor = rule.runbook.partition("#")
    titles = re.findall(r"^#+ (.+)$", (ROOT / path).read_text("utf-8"), re.M)
    anchors = {re.sub(r"[^\w -]", "", it.lower()).strip().replace(" ", "-") for it in titles}
    assert anchor in anchors


@pytest.mark.parametrize("rule", RULES, ids=lambda it: it.alert)
def test_a_rule_asks_for_metrics_that_the_page_names(rule: Rule) -> None:
    # A test of that page holds its list equal to what services show.
    metrics = PAGE.read_text("utf-8").partition("<!-- alerts -->")[0]
    listed = set(re.findall(r"^\| `(sagabox_\w+)", metrics, re.M))
    asked = {re.sub("_(count|sum|bucket)$", "", it) for it in metrics_in(rule.expression)}
    assert asked
    assert asked <= listed


def test_there_is_a_scenario_for_each_alert() -> None:
    assert set(SCENARIOS) == {it.alert for it in RULES}


def test_promtool_finds_the_configuration_and_the_rules_right(tmp_path: Path) -> None:
    # It looks for the token's file, which only the containers have.
    token = tmp_path / "token"
    token.write_text("secret")
    copied = tmp_path / "prometheus"
    (copied / "rules").mkdir(parents=True)
    text = (FOLDER / "prometheus.yml").read_text("utf-8")
    (copied / "prometheus.yml").write_text(text.replace("/run/tokens/metrics", str(token)))
    for path in files():
        (copied / "rules" / path.name).write_bytes(path.read_bytes())
    checked = promtool("check", "config", copied / "prometheus.yml")
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert f"{len(files())} rule files found" in checked.stdout
    ruled = promtool("check", "rules", *files())
    assert ruled.returncode == 0, ruled.stdout + ruled.stderr
    found = [int(it) for it in re.findall(r"SUCCESS: (\d+) rules found", ruled.stdout)]
    assert sum(found) == len(RULES)


def test_the_page_tells_where_the_token_is_and_how_it_is_made() -> None:
    page = (ROOT / "docs" / "operate" / "telemetry.md").read_text("utf-8")
    config = yaml.safe_load((FOLDER / "prometheus.yml").read_text("utf-8"))
    files = {it["authorization"]["credentials_file"] for it in config["scrape_configs"]}
    assert [it for it in files if f"`{it}`" not in page] == []
    (command,) = re.findall(r"`sagabox (token create .*?)`", page)
    require_command(command.split())


def judged(folder: Path, tests: list[dict[str, object]]) -> str:
    """What `promtool test rules` finds wrong; "" for nothing."""
    path = folder / "tests.yaml"
    told = {"rule_files": [*map(str, files())], "evaluation_interval": "1m", "tests": tests}
    path.write_text(yaml.safe_dump(told), encoding="utf-8")
    ran = promtool("test", "rules", path)
    return "" if ran.returncode == 0 else ran.stdout + ran.stderr


def test_each_alert_fires_in_its_trouble_and_not_before_and_goes_quiet_after_it(
    tmp_path: Path,
) -> None:
    tried = [*SCENARIOS.items(), *OTHER_BRANCHES]
    assert judged(tmp_path, [it.as_test(alert) for alert, it in tried]) == ""


def test_in_normal_operation_no_alert_fires(tmp_path: Path) -> None:
    looks = {(minute, "count(ALERTS)"): 0 for minute in range(0, 60, 5)}
    assert judged(tmp_path, [a_test("calm", CALM, looks)]) == ""


def test_a_scenario_that_does_not_come_true_is_found(tmp_path: Path) -> None:
    wrong = SCENARIOS["SagaboxDatabaseDown"].as_test("SagaboxRelayDown")
    assert "SagaboxRelayDown" in judged(tmp_path, [wrong])
