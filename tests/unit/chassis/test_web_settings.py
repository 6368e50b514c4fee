from __future__ import annotations

import base64
from datetime import timedelta

import pytest
from pydantic import Field

from articles.settings import ArticlesSettings
from comments.settings import CommentsSettings
from orchestrator.settings import OrchestratorSettings
from outbox.chassis.settings import (
    DatabaseUrl,
    InvalidSettings,
    ServiceSettings,
    documented,
    load,
)
from outbox.database.address.urls import database_url
from outbox.inbox.limits import InboxLimits
from outbox.relay.settings import RelaySettings
from outbox.transports.base import DEFAULT_TIMEOUT

SECRET = "k1:" + base64.b64encode(b"s" * 32).decode()


class _Settings(ServiceSettings):
    database_url: DatabaseUrl = Field(
        validation_alias="SAGABOX_DATABASE_URL_TEST", repr=False, description="Its database"
    )


@pytest.fixture(autouse=True)
def _empty_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for model in (ArticlesSettings, CommentsSettings, _Settings):
        for setting in documented(model):
            monkeypatch.delenv(setting.variable, raising=False)


@pytest.mark.parametrize(
    ("given", "used"),
    [
        ("postgresql://ann@db/blog", "postgresql+asyncpg://ann@db/blog"),
        ("postgres://ann@db/blog", "postgresql+asyncpg://ann@db/blog"),
        ("postgresql+psycopg://ann@db/blog", "postgresql+psycopg://ann@db/blog"),
        ("postgresql://ann:p%40ss@db:5/b", "postgresql+asyncpg://ann:p%40ss@db:5/b"),
        ("postgresql://db/b?sslmode=require", "postgresql+asyncpg://db/b?sslmode=require"),
        ("sqlite:///blog.sqlite", "sqlite+aiosqlite:///blog.sqlite"),
        ("sqlite:////var/blog.sqlite", "sqlite+aiosqlite:////var/blog.sqlite"),
    ],
)
def test_a_database_url_gets_the_driver_that_it_lacks(given: str, used: str) -> None:
    assert database_url(given) == used


@pytest.mark.parametrize(
    "given", ["mysql://db/blog", "blog", "", "sqlite://", "sqlite:///:memory:"]
)
def test_a_database_that_cannot_be_used_is_refused(given: str) -> None:
    with pytest.raises(ValueError, match=r"not a database URL|not supported|needs a file"):
        database_url(given)


def test_settings_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAGABOX_SECRETS", SECRET)
    monkeypatch.setenv("SAGABOX_DATABASE_URL_ARTICLES", "postgresql://db/articles")
    monkeypatch.setenv("SAGABOX_PEERS", "comments=http://127.0.0.1:9002/")
    monkeypatch.setenv("SAGABOX_POLL_INTERVAL", "0.25")
    monkeypatch.setenv("SAGABOX_RELAY_BATCH", "")
    settings = load(ArticlesSettings)
    assert settings.database_url == "postgresql+asyncpg://db/articles"
    assert settings.peer_addresses() == {
        "comments": "http://127.0.0.1:9002",
        "orchestrator": "http://127.0.0.1:8000",
    }
    assert (settings.poll_interval, settings.relay_batch) == (0.25, 100)


def test_what_is_missing_or_wrong_is_named_by_its_variable(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SAGABOX_DATABASE_URL_TEST", "mysql://secret@db/x")
    monkeypatch.setenv("SAGABOX_POOL_SIZE", "0")
    with pytest.raises(InvalidSettings) as caught:
        load(_Settings)
    told = str(caught.value)
    assert "SAGABOX_SECRETS: it is not set" in told
    assert "SAGABOX_DATABASE_URL_TEST" in told
    assert "SAGABOX_POOL_SIZE" in told
    assert "secret@" not in told


def test_no_secret_stands_in_the_text_of_the_settings() -> None:
    settings = _Settings(database_url="postgresql://ann:hunter2@db/x", secrets=SECRET)
    assert "hunter2" not in repr(settings)
    assert SECRET not in repr(settings)
    assert SECRET not in str(settings)


@pytest.mark.parametrize("model", [ArticlesSettings, CommentsSettings])
def test_every_setting_is_described_and_named_with_the_prefix(
    model: type[ServiceSettings],
) -> None:
    described = documented(model)
    assert len(described) == len(model.model_fields)
    for setting in described:
        assert setting.variable.startswith("SAGABOX_")
        assert setting.variable == setting.variable.upper()
        assert len(setting.meaning) > 20, setting
    required = {setting.variable for setting in described if setting.default is None}
    service = model.__name__.removesuffix("Settings").upper()
    assert required == {"SAGABOX_SECRETS", f"SAGABOX_DATABASE_URL_{service}"}


def test_during_a_rotation_the_key_that_signs_is_chosen_and_both_are_valid() -> None:
    second = "k2:" + base64.b64encode(b"t" * 32).decode()
    settings = _Settings(
        database_url="sqlite:///x.sqlite", secrets=f"{SECRET}, {second}", signing_key="k2"
    )
    keys = settings.keyring()
    assert (keys.signing, keys.signing_secret) == ("k2", b"t" * 32)
    assert keys.secret_of("k1") == b"s" * 32
    first = _Settings(database_url="sqlite:///x.sqlite", secrets=f"{SECRET},{second}")
    assert first.keyring().signing == "k1"


@pytest.mark.parametrize("seconds", ["inf", "nan", "1e300", "0"])
@pytest.mark.parametrize(
    "name", ["DELIVERY_TIMEOUT", "LEASE", "POLL_INTERVAL", "PURGE_INTERVAL", "SIGNATURE_WINDOW"]
)
def test_a_time_that_no_database_or_clock_can_tell_is_refused(
    monkeypatch: pytest.MonkeyPatch, name: str, seconds: str
) -> None:
    monkeypatch.setenv(f"SAGABOX_{name}", seconds)
    with pytest.raises(InvalidSettings, match=f"SAGABOX_{name}: Input should be"):
        load(_Settings, database_url="sqlite:///x.sqlite", secrets=SECRET)


def test_the_longest_times_can_be_worked_with() -> None:
    day = 86_400
    settings = _Settings(
        database_url="sqlite:///x.sqlite", secrets=SECRET, delivery_timeout=day, lease=day
    )
    assert timedelta(seconds=settings.relay_settings().lease) > timedelta(days=2)
    # PostgreSQL takes a timeout in milliseconds of 32 bits with a sign.
    assert settings.inbox_limits().transaction * 1000 < 2**31


@pytest.mark.parametrize("timeout", [0.5, 4.5, 60.0])
def test_an_inbox_answers_before_its_senders_give_up_and_a_lease_outlasts_a_delivery(
    timeout: float,
) -> None:
    settings = _Settings(
        database_url="sqlite:///x.sqlite", secrets=SECRET, delivery_timeout=timeout
    )
    limits, relay = settings.inbox_limits(), settings.relay_settings()
    assert limits.transaction < limits.answer_within < relay.delivery_timeout
    assert relay.delivery_timeout < relay.margin < relay.lease * 2 / 3


@pytest.mark.parametrize("model", [ArticlesSettings, CommentsSettings, OrchestratorSettings])
def test_a_variable_that_is_documented_for_no_field_sets_none(
    model: type[ServiceSettings], monkeypatch: pytest.MonkeyPatch
) -> None:
    known = {setting.variable for setting in documented(model)}
    fields = {f"SAGABOX_{name.upper()}" for name in model.model_fields}
    assert fields - known, "each has a variable with another name than its field"
    monkeypatch.setenv("SAGABOX_SECRETS", SECRET)
    monkeypatch.setenv(model.variable("database_url"), "sqlite:///its-own.sqlite")
    meant = load(model)
    for variable in fields - known:
        monkeypatch.setenv(variable, "sqlite:///another.sqlite")
    assert load(model) == meant
    monkeypatch.delenv(model.variable("database_url"))
    with pytest.raises(InvalidSettings, match=model.variable("database_url")):
        load(model)


def test_a_service_that_is_told_nothing_sends_at_the_pace_of_a_relay_that_is_told_nothing() -> None:
    settings = _Settings(database_url="sqlite:///x.sqlite", secrets=SECRET)
    assert settings.relay_settings() == RelaySettings()


def test_by_default_an_inbox_answers_before_a_transport_and_that_before_its_relay_gives_up() -> (
    None
):
    assert InboxLimits().answer_within < DEFAULT_TIMEOUT < RelaySettings().delivery_timeout


@pytest.mark.parametrize(("wanted", "lease"), [(3.0, 3.0), (1.0, 2.4)])
def test_a_lease_is_as_long_as_wished_and_long_enough_for_a_delivery(
    wanted: float, lease: float
) -> None:
    settings = _Settings(
        database_url="sqlite:///x.sqlite", secrets=SECRET, delivery_timeout=0.5, lease=wanted
    )
    assert settings.relay_settings().lease == pytest.approx(lease)
