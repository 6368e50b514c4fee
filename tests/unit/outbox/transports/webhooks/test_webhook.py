"""What a webhook is declared with, and what is refused at once."""

from __future__ import annotations

from pathlib import Path

import pytest

from outbox import InvalidWebhook, Webhook
from outbox.transports.webhooks.references import Reference
from outbox.transports.webhooks.webhook import taken_apart

URL = "https://crm.example/hooks?token=t0p"


def test_the_text_of_a_webhook_has_the_subscribers_url_and_behind_it_the_options() -> None:
    read = Webhook.parse(
        f"webhook+{URL}#secret=env:OLD&secret=file:/run/new&mode=batch&batch=50&at_once=2"
        "&private=yes&pause_after=12h&sagabox_keys=env:KEYS"
    )
    assert read == Webhook(
        URL,
        secret=["env:OLD", "file:/run/new"],
        mode="batch",
        batch=50,
        at_once=2,
        private=True,
        pause_after=43_200,
        sagabox_keys="env:KEYS",
    )
    assert read.target == "/hooks?token=t0p"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("webhook+https://a.example/", "it has no secret"),
        ("webhook+https://a.example/#secret=", "it has no secret"),
        ("webhook+https://a.example/#secret=whsec_c2VjcmV0", "not given by reference"),
        ("webhook+https://a.example/#secret=env:A&colour=red", "no option 'colour'"),
        ("webhook+https://a.example/#secret=env:A&mode=xml", "structured, binary, batch"),
        ("webhook+https://a.example/#secret=env:A&mode=batch&mode=binary", "there twice"),
        ("webhook+https://a.example/#secret=env:A&batch=0", "batch=0"),
        ("webhook+https://a.example/#secret=env:A&at_once=many", "no number"),
        ("webhook+https://a.example/#secret=env:A&private=perhaps", "neither yes nor no"),
        ("webhook+https://a.example/#secret=env:A&pause_after=soon", "no time"),
        ("webhook+https://a.example/#secret=env:A&pause_after=5s", "60 or more"),
        ("webhook+https://a.example/#secret", "options cannot be read"),
        ("webhook+http://a.example/#secret=env:A", "plain http"),
        ("webhook+https://127.0.0.1/#secret=env:A", "loopback or private"),
        ("webhook+https://[::1]:8443/#secret=env:A", "loopback or private"),
        ("webhook+https://[::ffff:10.0.0.1]/#secret=env:A", "loopback or private"),
        ("webhook+https://169.254.169.254/latest#secret=env:A", "loopback or private"),
        ("webhook+https://localhost/#secret=env:A", "this machine"),
        ("webhook+https://me:pw@a.example/#secret=env:A", "a user or a fragment"),
        ("webhook+ftp://a.example/#secret=env:A", "no http or https"),
        ("webhook+https://a.example:99999/#secret=env:A", "Port out of range"),
        ("webhook+https://a example/#secret=env:A", "blanks"),
        ("https://a.example/", "is no webhook"),
    ],
)
def test_what_cannot_be_is_refused_with_the_next_step(text: str, problem: str) -> None:
    with pytest.raises(InvalidWebhook, match=problem) as error:
        Webhook.parse(text)
    assert error.value.next_step
    assert "c2VjcmV0" not in str(error.value), "a secret stands in no error"
    assert "pw@" not in str(error.value)


def test_what_may_be_a_secret_in_the_url_is_not_shown() -> None:
    assert Webhook(URL, secret="env:A").shown == "https://crm.example/hooks"


def test_webhooks_are_taken_out_of_the_text_of_the_peers() -> None:
    others, hooks = taken_apart(f"a=http://a:1, crm=webhook+{URL}#secret=env:A ,b=http://b:2")
    assert others == "a=http://a:1,b=http://b:2"
    assert hooks == {"crm": Webhook(URL, secret=["env:A"])}


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("crm=webhook+https://a.example/", "^crm: .*no secret"),
        (f"crm=webhook+{URL}#secret=env:A,crm=webhook+{URL}#secret=env:A", "two addresses"),
    ],
)
def test_a_wrong_webhook_among_the_peers_is_named(text: str, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        taken_apart(text)


def test_a_reference_is_read_from_the_environment_or_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "secret"
    place.write_text("whsec_x\n")
    monkeypatch.setenv("A_SECRET", "whsec_y")
    assert Reference.parse(f"file:{place}").read() == "whsec_x\n"
    assert Reference.parse("env:A_SECRET").read() == "whsec_y"


def test_a_reference_that_leads_nowhere_says_where_it_leads(tmp_path: Path) -> None:
    large = tmp_path / "large"
    large.write_bytes(b"x" * 100_000)
    binary = tmp_path / "binary"
    binary.write_bytes(b"\xff")
    for text, problem in (
        ("env:NOT_SET_ANYWHERE", "env:NOT_SET_ANYWHERE is not there"),
        (f"file:{tmp_path}/none", "No such file"),
        (f"file:{large}", "more than 16384 bytes"),
        (f"file:{binary}", "not plain text"),
    ):
        with pytest.raises(InvalidWebhook, match=problem):
            Reference.parse(text).read()
