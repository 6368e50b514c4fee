"""The errors of the library aiormq, as those of brokers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

from aiormq.exceptions import (
    AMQPError,
    ChannelAccessRefused,
    ChannelClosed,
    ChannelLockedResource,
    ChannelPreconditionFailed,
    ProbableAuthenticationError,
)

from outbox.transports.brokers.address import BrokerAddress
from outbox.transports.brokers.broker import BrokerAway, BrokerRefused

_NOT_ALLOWED = 530


@contextmanager
def told(address: BrokerAddress, *, sent: bool) -> Iterator[None]:
    """What the library raises within, raised as BrokerAway or BrokerRefused."""
    try:
        yield
    except asyncio.CancelledError as error:
        task = asyncio.current_task()
        if task is None or task.cancelling():
            raise
        # So the library tells those that wait on a connection that broke.
        raise BrokerAway(words(error), sent=sent) from error
    except (ChannelAccessRefused, ChannelLockedResource, ChannelPreconditionFailed) as error:
        raise _refused(error, address) from error
    except (AMQPError, OSError) as error:
        raise BrokerAway(words(error), sent=sent) from error
    except Exception as error:
        # The library has no class of its own for what is asked of a closed connection.
        if type(error) is Exception or (isinstance(error, RuntimeError) and "closed" in str(error)):
            raise BrokerAway(words(error), sent=sent) from error
        raise


@asynccontextmanager
async def within(seconds: float) -> AsyncIterator[None]:
    """Raises TimeoutError, with words, where it takes longer."""
    try:
        async with asyncio.timeout(seconds):
            yield
    except TimeoutError:
        raise TimeoutError(f"no answer within {seconds:g} s") from None


def require_entry(error: BaseException, address: BrokerAddress) -> None:
    """Raises BrokerRefused where that error says that the server does not let us in."""
    user = address.user or "guest"
    if isinstance(error, ProbableAuthenticationError):
        raise BrokerRefused(
            f"{address} refuses the credentials of the user {user!r}: {_text(error)}",
            next_step="write the right ones into the address, as amqp://user:secret@host/vhost",
        ) from error
    if error.args[:1] == (_NOT_ALLOWED,):
        raise BrokerRefused(
            f"{address} does not let the user {user!r} into the virtual host "
            f"{address.path or '/'!r}: {_text(error)}",
            next_step="create it with `rabbitmqctl add_vhost`, and give the user its rights with "
            "`rabbitmqctl set_permissions`",
        ) from error


def require_confirms(capabilities: object, address: BrokerAddress) -> None:
    """Raises BrokerRefused where a server does not say that it confirms what it has."""
    if isinstance(capabilities, dict) and capabilities.get("publisher_confirms") is True:
        return
    raise BrokerRefused(
        f"{address} does not confirm what is published",
        next_step="let the address lead to RabbitMQ 3.10 or newer",
    )


def words(error: BaseException | None) -> str:
    """What is wrong with the connection, as a sentence."""
    text = _text(error)
    return f"the connection to RabbitMQ broke{f': {text}' if text else ''}"


def _text(error: BaseException | None) -> str:
    return " ".join(str(it) for it in error.args) if error is not None else ""


def _refused(error: ChannelClosed, address: BrokerAddress) -> BrokerRefused:
    text = _text(error)
    if isinstance(error, ChannelAccessRefused):
        step = (
            f"let the user configure, write and read what is called ^{address.prefix}\\. with "
            "`rabbitmqctl set_permissions`"
        )
    elif "alternate-exchange" in text:
        step = (
            "write the partitions that the queue has into each address, as ?partitions=; or let "
            "its readers empty it, stop all that use it, and delete its exchange and its queues"
        )
    elif "x-delivery-limit" in text:
        step = (
            "set the policy delivery-limit to -1 for these queues and write delivery-limit=policy "
            "into each address; or empty and delete the queues"
        )
    else:
        step = (
            "let its readers empty the queue, and delete it with `rabbitmqctl delete_queue`; or "
            "choose another prefix in each address"
        )
    return BrokerRefused(f"{address} refuses: {text}", next_step=step)
