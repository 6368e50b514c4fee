"""Where a service finds its peers: one variable, and the older ones that say the same."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from articles.settings import ArticlesSettings
from comments.settings import CommentsSettings
from orchestrator.settings import OrchestratorSettings
from outbox.chassis.settings import InvalidSettings, ServiceSettings, load
from outbox.transports.http.peers import peers_in
from tests.support.blog.blog import SECRETS

HERE = "http://127.0.0.1"


@pytest.fixture(autouse=True)
def environment() -> Iterator[pytest.MonkeyPatch]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SAGABOX_SECRETS", SECRETS)
        for name in ("ARTICLES", "COMMENTS", "ORCHESTRATOR"):
            patch.setenv(f"SAGABOX_DATABASE_URL_{name}", "sqlite:////tmp/none.sqlite")
            patch.delenv(f"SAGABOX_URL_{name}", raising=False)
        for name in ("PEERS", "PARTICIPANTS"):
            patch.delenv(f"SAGABOX_{name}", raising=False)
        yield patch


def test_peers_are_names_with_addresses() -> None:
    assert peers_in("") == {}
    assert peers_in(f" a = {HERE}:1/ , b=https://b.example/x") == {
        "a": f"{HERE}:1",
        "b": "https://b.example/x",
    }


@pytest.mark.parametrize("variable", ["SAGABOX_PEERS", "SAGABOX_PARTICIPANTS"])
@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("a", "'a' is not name=address"),
        ("http://ann:hunter2@a/?hunter2", "'a/' is not name=address"),
        ("a=ftp://x", "the address of a: 'ftp://x' is not an address"),
        ("a=http://ann:hunter2@x", "the address of a: 'x' is not an address"),
        ("=http://x", "is no name of a service"),
        ("a=http://x,a=http://y", "a has two addresses"),
    ],
)
def test_a_list_of_peers_that_cannot_be_is_named_with_its_variable_and_without_secrets(
    text: str, problem: str, variable: str, environment: pytest.MonkeyPatch
) -> None:
    environment.setenv(variable, text)
    with pytest.raises(InvalidSettings) as refused:
        load(OrchestratorSettings)
    assert variable in refused.value.problem
    assert problem in refused.value.problem
    assert "hunter2" not in str(refused.value)


def test_an_alias_that_is_no_address_is_named_without_its_secrets(
    environment: pytest.MonkeyPatch,
) -> None:
    environment.setenv("SAGABOX_URL_COMMENTS", "http://ann:hunter2@comments")
    with pytest.raises(InvalidSettings, match=r"SAGABOX_URL_COMMENTS: .*not an address") as refused:
        load(ArticlesSettings)
    assert "hunter2" not in str(refused.value)


@pytest.mark.parametrize("model", [ArticlesSettings, CommentsSettings, OrchestratorSettings])
def test_one_list_may_be_that_of_all_services(
    model: type[ServiceSettings], environment: pytest.MonkeyPatch
) -> None:
    peers = {name: f"{HERE}:{at}" for at, name in enumerate(("orchestrator", "comments", "x"), 1)}
    environment.setenv("SAGABOX_PEERS", ",".join(f"{name}={at}" for name, at in peers.items()))
    assert load(model).peer_addresses() == peers


@pytest.mark.parametrize(
    ("model", "alias", "text", "name"),
    [
        (ArticlesSettings, "SAGABOX_URL_COMMENTS", f"{HERE}:9/", "comments"),
        (ArticlesSettings, "SAGABOX_URL_ORCHESTRATOR", f"{HERE}:9", "orchestrator"),
        (OrchestratorSettings, "SAGABOX_PARTICIPANTS", f"b={HERE}:9,c={HERE}:8", "b"),
    ],
)
def test_an_alias_says_where_a_peer_is_and_must_not_say_otherwise_than_the_list(
    model: type[ServiceSettings],
    alias: str,
    text: str,
    name: str,
    environment: pytest.MonkeyPatch,
) -> None:
    environment.setenv(alias, text)
    assert load(model).peer_addresses()[name] == f"{HERE}:9"
    environment.setenv("SAGABOX_PEERS", f"a={HERE}:1")
    assert load(model).peer_addresses().items() >= {("a", f"{HERE}:1"), (name, f"{HERE}:9")}
    environment.setenv("SAGABOX_PEERS", f"a={HERE}:1,{name}=HTTP://127.0.0.1:9/")
    assert load(model).peer_addresses()[name] == "HTTP://127.0.0.1:9"
    environment.setenv("SAGABOX_PEERS", f"{name}={HERE}:7")
    with pytest.raises(InvalidSettings) as refused:
        load(model)
    assert (
        f"SAGABOX_PEERS says '{HERE}:7' for the peer {name}, and {alias} says '{HERE}:9'"
        in refused.value.problem
    )
