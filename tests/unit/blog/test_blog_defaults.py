"""An orchestrator that is told nothing runs the saga of the blog."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.cli.processes import services
from orchestrator.cli.processes.blog import Blog
from orchestrator.cli.processes.services import BLOG_SAGAS, blog_defaults
from outbox.transports.http.peers import peers_in

_USUAL = {"articles": "http://127.0.0.1:8001", "comments": "http://127.0.0.1:8002"}


def test_the_blog_is_what_runs_unless_settings_say_otherwise() -> None:
    added = blog_defaults({})
    assert added["SAGABOX_SAGAS"] == BLOG_SAGAS
    assert peers_in(added["SAGABOX_PEERS"]) == _USUAL
    for variable in ("SAGABOX_PEERS", "SAGABOX_PARTICIPANTS"):
        assert blog_defaults({"SAGABOX_SAGAS": "a:b", variable: "a=http://a"}) == {}
    assert list(blog_defaults({"SAGABOX_SAGAS": "a:b"})) == ["SAGABOX_PEERS"]


@pytest.mark.parametrize("variable", ["SAGABOX_PEERS", "SAGABOX_PARTICIPANTS"])
def test_where_the_peers_are_not_the_blog_s_its_sagas_do_not_run(variable: str) -> None:
    both = "articles=http://127.0.0.1:1,comments=http://127.0.0.1:2"
    assert blog_defaults({variable: both}) == {"SAGABOX_SAGAS": BLOG_SAGAS}
    assert blog_defaults({variable: f"{both},shop=http://127.0.0.1:3"}).keys() == {"SAGABOX_SAGAS"}
    assert blog_defaults({variable: "shop=http://127.0.0.1:3"}) == {}
    assert blog_defaults({variable: "articles=http://127.0.0.1:1"}) == {}


def test_who_has_installed_sagas_does_not_get_that_of_the_blog(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(services, "entry_points", lambda group: ["one"])
    assert "SAGABOX_SAGAS" not in blog_defaults({})


def _peers(base: dict[str, str], variable: str = "SAGABOX_PEERS") -> dict[str, str]:
    ports = {"orchestrator": 7000, "articles": 7001, "comments": 7002}
    databases = dict.fromkeys(ports, "sqlite:////x")
    blog = Blog(databases=databases, ports=ports, secret="s", logs=Path("logs"), base=base)
    return dict(peers_in(blog.spec("orchestrator").environment[variable]))


def test_a_set_of_services_names_its_own_ports() -> None:
    own = {"articles": "http://127.0.0.1:7001", "comments": "http://127.0.0.1:7002"}
    assert _peers({}) == own
    shop = {"shop": "http://127.0.0.1:9000"}
    given = "shop=http://127.0.0.1:9000, articles=http://127.0.0.1:9001"
    assert _peers({"SAGABOX_PEERS": given}) == {**shop, **own}
    alias = "SAGABOX_PARTICIPANTS"
    assert (_peers({alias: given}), _peers({alias: given}, alias)) == (own, shop)
