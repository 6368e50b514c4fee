"""Passwords that change: a token of a provider, asked for anew for each connection."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from importlib import import_module
from inspect import isawaitable, iscoroutinefunction
from typing import Any
from weakref import WeakKeyDictionary

from sqlalchemy import Dialect, Engine, event
from sqlalchemy.ext.asyncio import AsyncEngine

from outbox.database.sqlalchemy_internals import await_
from outbox.errors import OutboxError
from outbox.spelling import safe

Password = Callable[[], str | Awaitable[str]]
"""Gives the password of the moment. It may be a coroutine function for an asynchronous engine."""

_passwords: WeakKeyDictionary[Engine, Password] = WeakKeyDictionary()


def ask_password(engine: Engine | AsyncEngine, password: Password) -> None:
    """Let each new connection of the engine, and of engines that the library makes of it, have the
    password that the function gives then; call it right after the engine was made.

    Connections that are open stay as they are. What the function raises, the attempt to connect
    raises; on an asynchronous engine a plain function must not block. Raises OutboxError for a
    coroutine function and a synchronous engine.
    """
    target = engine.sync_engine if isinstance(engine, AsyncEngine) else engine
    if iscoroutinefunction(password) and not target.dialect.is_async:
        raise OutboxError(
            "the function for the password is a coroutine function, and the engine is synchronous",
            next_step="give a plain function, which may block",
        )
    _passwords[target] = password

    @event.listens_for(target, "do_connect")
    def ask(_dialect: Dialect, _record: Any, _arguments: Any, options: dict[str, Any]) -> None:
        found = password()
        options["password"] = await_(found) if isawaitable(found) else found


def password_of(engine: Engine) -> Password | None:
    """The function that was given for this engine."""
    return _passwords.get(engine)


def password_at(place: str) -> Password:
    """The function that stands at "module:function". Raises ValueError where there is none."""
    module, _, name = place.partition(":")
    try:
        found = getattr(import_module(module), name)
    except (ImportError, AttributeError, TypeError, ValueError) as error:
        why = safe(error)
        raise ValueError(f"{place!r} cannot be imported ({why}); write module:function") from None
    if not callable(found):
        raise ValueError(f"{place!r} is a {type(found).__name__}, and no function")
    password: Password = found
    return password
