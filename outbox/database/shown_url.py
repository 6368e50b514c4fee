"""The address of a database in messages, without its secrets."""

from __future__ import annotations

from sqlalchemy.engine import URL

_SHOWN = ("host", "port")


def shown(url: URL) -> str:
    """The URL for people: without its password, and of the options behind it the hosts and ports
    alone, since others may be secrets, such as `sslpassword`."""
    options = {name: value for name, value in url.query.items() if name in _SHOWN}
    return url.set(query=options).render_as_string(hide_password=True)
