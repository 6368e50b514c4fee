"""What the released version offered to code, callers, deployments and operators is still there.

A change that the promise of docs/operate/compatibility.md allows, or that was worth breaking it, is
listed here with its reason. An entry that is no change any more is removed.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from tests.compatibility.conftest import Described
from tests.support.checkout import ROOT
from tests.support.compatibility import addresses, names, surroundings
from tests.support.compatibility.released import Release

NAMES: Mapping[str, str] = {
    "outbox.Relay.stats: the name is gone": "the changelog says so; the metrics have the figures",
    "outbox.schema.upgrade: the default of to was 4, and is 5": (
        "it is the newest version of the tables by its meaning, and migrations name another one"
    ),
}
ADDRESSES: Mapping[str, str] = {}
_POOL = "the changelog says so; together they are as many connections as before, and kept open"
SETTINGS: Mapping[str, str] = {
    f"{service}: {change}": _POOL
    for service in ("orchestrator", "articles", "comments")
    for change in (
        "SAGABOX_POOL_SIZE: the default was 10, and is 20",
        "SAGABOX_POOL_OVERFLOW: the default was 10, and is 0",
    )
}
COMMANDS: Mapping[str, str] = {}


def _assert_only(found: Iterator[str], allowed: Mapping[str, str]) -> None:
    changes = list(found)
    unlisted = [it for it in changes if it not in allowed]
    assert unlisted == [], "\n".join(unlisted)
    assert [it for it in allowed if it not in changes] == [], "these are no changes any more"
    assert all(allowed.values()), "each allowed change has its reason"


def test_the_public_names_are_there_and_can_be_called_as_before(
    released_offers: Described, offers: Described
) -> None:
    assert {"outbox", "outbox.testing", "orchestrator"} <= released_offers["names"].keys()
    assert len(released_offers["names"]["outbox"]) > 50
    _assert_only(names.broken(released_offers["names"], offers["names"]), NAMES)


def test_the_addresses_take_and_give_what_they_did(
    released_offers: Described, offers: Described
) -> None:
    old, new = released_offers["addresses"], offers["addresses"]
    assert len(old["orchestrator"]["paths"]) > 10
    found = (
        f"{service}: {it}" for service in old for it in addresses.broken(old[service], new[service])
    )
    _assert_only(found, ADDRESSES)


def test_the_settings_are_known_and_have_their_defaults(
    released_offers: Described, offers: Described
) -> None:
    old, new = released_offers["settings"], offers["settings"]
    assert "SAGABOX_SECRETS" in old["articles"]
    _assert_only(surroundings.broken_settings(old, new), SETTINGS)


def test_the_commands_take_what_they_took(released_offers: Described, offers: Described) -> None:
    old, new = released_offers["commands"], offers["commands"]
    assert "sagabox serve orchestrator" in old
    _assert_only(surroundings.broken_commands(old, new), COMMANDS)


def _named(page: str) -> set[str]:
    return set(re.findall(r"\bSAGABOX_[A-Z0-9_]*[A-Z0-9]\b", page))


def test_every_variable_of_the_page_of_settings_is_still_on_it(release: Release) -> None:
    """Also those that no model of settings has, as SAGABOX_TABLE_PREFIX."""
    page = "docs/operate/configuration.md"
    before = _named((release.sources / page).read_text("utf-8"))
    assert "SAGABOX_TABLE_PREFIX" in before
    assert before - _named((ROOT / page).read_text("utf-8")) == set()


def _metrics(page: str) -> set[str]:
    return set(re.findall(r"\bsagabox_[a-z0-9_]*[a-z0-9]\b", page))


def test_every_metric_that_was_listed_is_still_listed(release: Release) -> None:
    page = "docs/operate/operating.md"
    before = _metrics((release.sources / page).read_text("utf-8"))
    assert len(before) > 20
    assert before - _metrics((ROOT / page).read_text("utf-8")) == set()
