"""The address of a database, as hosting providers write it: a URL with options of libpq.

A URL without a driver gets asyncpg, or psycopg where asyncpg does not know an option. What neither
of the two can do is refused, in a line that names the option.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Final
from urllib.parse import unquote, urlencode

from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError

ASYNCPG: Final = "postgresql+asyncpg"
PSYCOPG: Final = "postgresql+psycopg"
_DRIVERS = {
    "postgres": ASYNCPG,
    "postgresql": ASYNCPG,
    ASYNCPG: ASYNCPG,
    PSYCOPG: PSYCOPG,
    "sqlite": "sqlite+aiosqlite",
    "sqlite+aiosqlite": "sqlite+aiosqlite",
}
_WITHOUT_DRIVER = ("postgres", "postgresql")

_SSL_MODES = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")
_VALUES: Mapping[str, tuple[str, ...]] = {
    "sslmode": _SSL_MODES,
    "channel_binding": ("disable", "prefer", "require"),
    "gssencmode": ("disable", "prefer", "require"),
    "target_session_attrs": (
        "any",
        "read-write",
        "read-only",
        "primary",
        "standby",
        "prefer-standby",
    ),
    "load_balance_hosts": ("disable", "random"),
}
_FILES = ("sslrootcert", "sslcert", "sslkey")

_IN_DSN = frozenset(
    {
        "passfile",
        "sslmode",
        "sslcert",
        "sslkey",
        "sslpassword",
        "sslrootcert",
        "sslcrl",
        "ssl_min_protocol_version",
        "ssl_max_protocol_version",
        "target_session_attrs",
        "krbsrvname",
        "gsslib",
    }
)
"""What asyncpg reads from a DSN as libpq does."""
_ASYNCPG = _IN_DSN | {
    "host",
    "port",
    "connect_timeout",
    "application_name",
    "fallback_application_name",
    "options",
}
_WITHOUT_EFFECT: Mapping[str, tuple[str, ...]] = {
    "channel_binding": ("disable", "prefer"),
    "gssencmode": ("disable", "prefer"),
    "load_balance_hosts": ("disable",),
    "sslcompression": ("0",),
    "sslsni": ("1",),
    "keepalives": ("1",),
    "client_encoding": ("utf8", "UTF8", "utf-8", "UTF-8", "auto"),
}
"""Values that ask for no more than what asyncpg does anyway."""
_LIBPQ = (
    _ASYNCPG
    | _WITHOUT_EFFECT.keys()
    | {
        "gssdelegation",
        "hostaddr",
        "keepalives_count",
        "keepalives_idle",
        "keepalives_interval",
        "max_protocol_version",
        "min_protocol_version",
        "replication",
        "require_auth",
        "requirepeer",
        "scram_client_key",
        "scram_server_key",
        "service",
        "sslcertmode",
        "sslcrldir",
        "sslkeylogfile",
        "sslnegotiation",
        "tcp_user_timeout",
    }
)
_PORT = 5432
_MOST_SECONDS = 2**31 - 1
"""libpq keeps them in 32 bits."""
_OF_DRIVER = {ASYNCPG: frozenset({"ssl", "prepared_statement_cache_size"})}
"""Options that SQLAlchemy hands to a driver, and libpq does not have."""

# Up to the first slash or question mark; its last @ ends the password.
_HOST = re.compile(r"(?P<host>\[.*\]|[^:]*|.*?)(:(?P<port>\d*))?")
_AUTHORITY = re.compile(r"(?P<scheme>[^:/]+://)(?P<login>[^/?]*@)?(?P<hosts>[^/?@]*)(?P<rest>.*)")


def database_url(text: str) -> str:
    """The URL with an asynchronous driver: `postgresql://` becomes asyncpg (or psycopg, see above),
    `sqlite:///` aiosqlite.

    Raises ValueError for other databases, and for options that are unknown, or cannot be kept. The
    password is kept; do not log the result.
    """
    url = _parsed(text)
    driver = _DRIVERS.get(url.drivername)
    if driver is None:
        raise ValueError(
            f"{url.drivername}:// is not supported; write postgresql://user@host/name or "
            "sqlite:////folder/file.sqlite"
        )
    if driver == "sqlite+aiosqlite":
        if url.database in (None, "", ":memory:"):
            raise ValueError("SQLite needs a file, such as sqlite:////folder/file.sqlite")
        return url.set(drivername=driver).render_as_string(hide_password=False)
    _check(url)
    if driver == ASYNCPG and (lacking := _unknown_to_asyncpg(url)):
        if url.drivername not in _WITHOUT_DRIVER or find_spec("psycopg") is None:
            raise ValueError(
                f"asyncpg cannot do {lacking}; leave it out, or install sagabox[psycopg] and write "
                "postgresql+psycopg://"
            )
        driver = PSYCOPG
    return url.set(drivername=driver).render_as_string(hide_password=False)


def connecting(url: str) -> tuple[URL, dict[str, object]]:
    """What `create_async_engine` is given for a URL of `database_url`: a URL without the options of
    libpq, and these as the driver's `connect_args`."""
    parsed = make_url(url)
    options = _options(parsed)
    if parsed.drivername == PSYCOPG:
        return parsed.set(query={}), dict(options)
    if parsed.drivername != ASYNCPG:
        return parsed, {}
    arguments: dict[str, object] = {}
    if hosts := options.pop("host", ""):
        arguments["host"] = hosts.split(",")
    if given := options.pop("port", ""):
        ports = [int(each or _PORT) for each in given.split(",")]
        arguments["port"] = ports if ports[1:] else ports[0]
    if seconds := int(options.pop("connect_timeout", "0")):
        arguments["timeout"] = float(seconds)
    name = options.pop("application_name", options.pop("fallback_application_name", None))
    settings = {"application_name": name, "options": options.pop("options", None)}
    if told := {key: value for key, value in settings.items() if value is not None}:
        arguments["server_settings"] = told
    if dsn := {key: value for key, value in options.items() if key in _IN_DSN}:
        arguments["dsn"] = f"postgresql://?{urlencode(dsn)}"
    own = {key: value for key, value in options.items() if key in _OF_DRIVER[ASYNCPG]}
    return parsed.set(query=own), arguments


def _parsed(text: str) -> URL:
    match = _AUTHORITY.fullmatch(text)
    if match is not None and ("," in match["hosts"] or "%" in match["hosts"]):
        # Several hosts, or the folder of a socket, of which SQLAlchemy's own form knows nothing.
        pairs = [_HOST.fullmatch(each) for each in match["hosts"].split(",")]
        hosts = [unquote(each["host"]).strip("[]") for each in pairs if each]
        ports = [each["port"] or "" for each in pairs if each]
        named = {"host": ",".join(hosts)} | ({"port": ",".join(ports)} if any(ports) else {})
        login, rest = match["login"] or "", match["rest"]
        text = f"{match['scheme']}{login}{rest}{'&' if '?' in rest else '?'}{urlencode(named)}"
    try:
        url = make_url(text)
    except (ArgumentError, ValueError):  # the second for a port that is no number
        raise ValueError(
            "it is not a database URL; special signs in a user's name or password are written as "
            "%40 for @, %3A for :, %2F for /"
        ) from None
    if url.get_backend_name() not in _WITHOUT_DRIVER:
        return url
    options = _options(url)
    url = url.set(
        username=options.pop("user", url.username),
        password=options.pop("password", url.password),
        database=options.pop("dbname", url.database),
    )
    return url.set(query=options)


def _options(url: URL) -> dict[str, str]:
    """The options of the URL; of one that is there twice the last, as libpq takes it. SQLAlchemy's
    way to name several hosts is to repeat that option."""
    found = {
        name: value if isinstance(value, str) else value[-1] for name, value in url.query.items()
    }
    repeated = url.query.get("host")
    if isinstance(repeated, tuple):
        pairs = [each.partition(":") for each in repeated]
        found["host"] = ",".join(host for host, _, _ in pairs)
        found["port"] = ",".join(port for _, _, port in pairs)
    return found


def _check(url: URL) -> None:
    options = _options(url)
    for name, value in options.items():
        if name not in _LIBPQ | _OF_DRIVER.get(_DRIVERS[url.drivername], frozenset()):
            raise ValueError(
                f"the option {name} is none of PostgreSQL's; leave it out of the address"
            )
        if value not in _VALUES.get(name, (value,)):
            raise ValueError(f"{name}={value} cannot be; it is one of {', '.join(_VALUES[name])}")
    seconds = options.get("connect_timeout", "0")
    if not _is_number(seconds, 0, _MOST_SECONDS):
        raise ValueError(
            f"connect_timeout={seconds[:50]} cannot be; it is a whole number of seconds, "
            f"{_MOST_SECONDS} at most"
        )
    ports = options.get("port", "").split(",")
    named = ports if url.port is None else [*ports, str(url.port)]
    for port in named:
        if port and not _is_number(port, 1, 65535):
            raise ValueError(f"port={port[:50]} cannot be; a port is a number from 1 to 65535")
    if len(ports) not in (1, options.get("host", "").count(",") + 1):
        raise ValueError("there are not as many ports as hosts; name one, or one for each")
    if options.get("sslmode", "prefer") in _SSL_MODES[3:]:
        for name in _FILES:
            file = options.get(name, "system")
            if file != "system" and not Path(file).is_file():
                raise ValueError(f"{name} names {file}, which is no file; correct the path")


def _is_number(text: str, least: int, most: int) -> bool:
    """Whether that is a whole number between the two, as libpq reads it."""
    return text.isascii() and text.isdigit() and len(text) < 20 and least <= int(text) <= most


def _unknown_to_asyncpg(url: URL) -> str | None:
    """The first option of the URL that asyncpg does not know, with a value that is no secret."""
    for name, value in _options(url).items():
        is_known = name in _ASYNCPG | _OF_DRIVER[ASYNCPG] and (name, value) != (
            "sslrootcert",
            "system",
        )
        if not is_known and value not in _WITHOUT_EFFECT.get(name, ()):
            return f"{name}={value}" if name in {*_VALUES, "sslrootcert"} else name
    return None
