"""The addresses that providers hand out: each works with a driver, or is refused in one line."""

from __future__ import annotations

import re
from importlib.util import find_spec
from pathlib import Path

import pytest

from outbox.database.address import urls
from outbox.database.address.urls import connecting, database_url

ASYNCPG, PSYCOPG = "postgresql+asyncpg", "postgresql+psycopg"


@pytest.mark.parametrize(
    ("given", "used"),
    [
        ("postgres://a@db/b", f"{ASYNCPG}://a@db/b"),
        ("postgresql://a:p%40%25%2F%3A@db:6/b", f"{ASYNCPG}://a:p%40%25%2F%3A@db:6/b"),
        ("postgresql://db/b?sslmode=require", f"{ASYNCPG}://db/b?sslmode=require"),
        (
            "postgresql://db/b?sslmode=require&channel_binding=prefer",
            f"{ASYNCPG}://db/b?channel_binding=prefer&sslmode=require",
        ),
        (
            "postgresql://db/b?sslmode=require&channel_binding=require",
            f"{PSYCOPG}://db/b?channel_binding=require&sslmode=require",
        ),
        ("postgresql://db/b?keepalives_idle=9", f"{PSYCOPG}://db/b?keepalives_idle=9"),
        ("postgresql://one:1,two:2/b", f"{ASYNCPG}:///b?host=one%2Ctwo&port=1%2C2"),
        ("postgresql://a:s@one,two:2/b", f"{ASYNCPG}://a:s@/b?host=one%2Ctwo&port=%2C2"),
        ("postgresql://[::1]:1,[::2]:2/b", f"{ASYNCPG}:///b?host=%3A%3A1%2C%3A%3A2&port=1%2C2"),
        ("postgresql://%2Frun%2Fpg/b", f"{ASYNCPG}:///b?host=%2Frun%2Fpg"),
        ("postgresql://%2Frun%2Fpg:6/b", f"{ASYNCPG}:///b?host=%2Frun%2Fpg&port=6"),
        ("postgresql:///b?host=/run/pg&user=a", f"{ASYNCPG}://a@/b?host=%2Frun%2Fpg"),
        ("postgresql:///?dbname=b&user=a&password=p", f"{ASYNCPG}://a:p@/b"),
        (f"{ASYNCPG}://db/b?ssl=require", f"{ASYNCPG}://db/b?ssl=require"),
        (f"{PSYCOPG}://db/b?sslmode=prefer", f"{PSYCOPG}://db/b?sslmode=prefer"),
    ],
)
def test_an_address_gets_the_driver_that_can_do_what_it_says(given: str, used: str) -> None:
    assert database_url(given) == used
    assert database_url(used) == used


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("postgresql://db/b?pgbouncer=true", "the option pgbouncer is none of PostgreSQL's; leave"),
        ("postgresql://db/b?sslmode=nonsense", "sslmode=nonsense cannot be; it is one of disable,"),
        (f"{PSYCOPG}://db/b?sslmode=nonsense", "sslmode=nonsense cannot be; it is one of disable,"),
        ("postgresql://db/b?channel_binding=yes", "channel_binding=yes cannot be; it is one of"),
        ("postgresql://db/b?target_session_attrs=rw", "target_session_attrs=rw cannot be; it is"),
        ("postgresql://db/b?connect_timeout=soon", "connect_timeout=soon cannot be; it is a whole"),
        ("postgresql://db/b?connect_timeout=2147483648", "it is a whole number of seconds, 2147"),
        (f"postgresql://db/b?connect_timeout={'9' * 30}", "9 cannot be; it is a whole number"),
        ("postgresql://db/b?port=five", "port=five cannot be; a port is a number"),
        ("postgresql://db/b?port=0", "port=0 cannot be; a port is a number from 1 to 65535"),
        ("postgresql://db:65536/b", "port=65536 cannot be; a port is a number"),
        ("postgresql+psycopg://db:99999/b", "port=99999 cannot be; a port is a number"),
        (f"postgresql://one,two:{'9' * 30}/b", "9 cannot be; a port is a number"),
        ("postgresql:///b?host=a,b,c&port=1,2", "not as many ports as hosts; name one"),
        (
            "postgresql://db/b?sslmode=verify-full&sslrootcert=/no/such.pem",
            "sslrootcert names /no/such.pem, which is no file; correct the path",
        ),
        (
            f"{ASYNCPG}://db/b?channel_binding=require",
            "asyncpg cannot do channel_binding=require; leave it out, or install sagabox",
        ),
        (f"{ASYNCPG}://db/b?sslrootcert=system", "asyncpg cannot do sslrootcert=system; leave it"),
        (f"{PSYCOPG}://db/b?ssl=require", "the option ssl is none of PostgreSQL's"),
        ("postgresql+psycopg2://db/b", "psycopg2:// is not supported; write postgresql://user@"),
        ("postgresql://a:p:s@s@db:x/b", "it is not a database URL; special signs in a user's"),
    ],
)
def test_what_no_driver_can_do_is_refused_in_one_line_with_the_next_step(
    given: str, said: str
) -> None:
    with pytest.raises(ValueError, match=re.escape(said)) as refused:
        database_url(given)
    assert "\n" not in str(refused.value)


def test_no_refusal_shows_a_secret() -> None:
    for given in ("postgresql://db/b?passwrod=hush", f"{ASYNCPG}://db/b?scram_client_key=hush"):
        with pytest.raises(ValueError, match=r"passwrod|scram_client_key") as refused:
            database_url(given)
        assert "hush" not in str(refused.value)


def test_without_psycopg_an_option_that_it_alone_knows_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(
        urls, "find_spec", lambda name: None if name == "psycopg" else find_spec(name)
    )
    with pytest.raises(ValueError, match="asyncpg cannot do channel_binding=require"):
        database_url("postgresql://db/b?channel_binding=require")


@pytest.mark.parametrize(
    ("given", "address", "arguments"),
    [
        (f"{ASYNCPG}://a@db:6/b", f"{ASYNCPG}://a@db:6/b", {}),
        (
            f"{ASYNCPG}://db/b?sslmode=require&target_session_attrs=primary",
            f"{ASYNCPG}://db/b",
            {"dsn": "postgresql://?sslmode=require&target_session_attrs=primary"},
        ),
        (
            f"{ASYNCPG}://db/b?connect_timeout=7&options=-csearch_path%3Da&channel_binding=prefer",
            f"{ASYNCPG}://db/b",
            {"timeout": 7.0, "server_settings": {"options": "-csearch_path=a"}},
        ),
        (
            f"{ASYNCPG}:///b?host=one,two&port=,2",
            f"{ASYNCPG}:///b",
            {"host": ["one", "two"], "port": [5432, 2]},
        ),
        (f"{ASYNCPG}://db/b?port=6", f"{ASYNCPG}://db/b", {"port": 6}),
        (
            f"{ASYNCPG}:///b?host=one:1&host=two:2",
            f"{ASYNCPG}:///b",
            {"host": ["one", "two"], "port": [1, 2]},
        ),
        (f"{ASYNCPG}://db/b?connect_timeout=0", f"{ASYNCPG}://db/b", {}),
        (f"{ASYNCPG}://db/b?ssl=require", f"{ASYNCPG}://db/b?ssl=require", {}),
        (
            f"{ASYNCPG}://db/b?fallback_application_name=x",
            f"{ASYNCPG}://db/b",
            {"server_settings": {"application_name": "x"}},
        ),
        (
            f"{PSYCOPG}:///b?host=one,two&port=1,2&channel_binding=require",
            f"{PSYCOPG}:///b",
            {"host": "one,two", "port": "1,2", "channel_binding": "require"},
        ),
        ("sqlite+aiosqlite:///f?x=1", "sqlite+aiosqlite:///f?x=1", {}),
    ],
)
def test_a_driver_is_told_in_its_own_words(
    given: str, address: str, arguments: dict[str, object]
) -> None:
    url, found = connecting(given)
    assert (url.render_as_string(hide_password=False), found) == (address, arguments)


def test_a_certificate_that_is_there_may_be_named(tmp_path: Path) -> None:
    file = tmp_path / "ca.pem"
    file.touch()
    given = f"postgresql://db/b?sslmode=verify-full&sslrootcert={file}"
    assert database_url(given).startswith(ASYNCPG)
