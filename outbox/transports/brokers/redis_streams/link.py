"""A connection to Redis."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from redis.asyncio import Connection
from redis.exceptions import RedisError, ResponseError

from outbox.transports.brokers.broker import BrokerAway, reading_answers
from outbox.transports.brokers.redis_streams.troubles import trouble

ANSWER_WITHIN = 15.0
"""Seconds without an answer after which a connection is given up."""
Command = tuple[str | bytes | int, ...]


class Link:
    """A connection that is given up with its first trouble, and never made anew by itself."""

    def __init__(self, connection: Connection, name: str) -> None:
        self._connection = connection
        self.name = name
        self.is_usable = True
        self.known_queues: set[str] = set()

    async def ask(
        self, *commands: Command, wait: float = 0.0, with_packets: bool = False
    ) -> list[Any]:
        """The answers, those among them that are errors as values. Raises BrokerAway and
        BrokerRefused where the connection does not last; packets may have left then, if there are
        any among the commands."""
        is_whole = False
        try:
            async with asyncio.timeout(ANSWER_WITHIN + wait):
                if not self._connection.is_connected:
                    raise BrokerAway(f"{self.name}: the connection is closed", sent=False)
                await self._connection.send_packed_command(
                    self._connection.pack_commands(commands), check_health=False
                )
                with reading_answers(self.name, sent=with_packets):
                    answers = [await self._answer() for _ in commands]
            is_whole = True
        except TimeoutError:
            raise BrokerAway(f"{self.name} does not answer", sent=with_packets) from None
        except (RedisError, OSError) as error:
            raise trouble(error, self.name, sent=with_packets) from error
        finally:
            self.is_usable = self.is_usable and is_whole
        return answers

    async def ask_one(self, *command: str | bytes | int, wait: float = 0.0) -> Any:
        """The answer to one command that changes nothing, or nothing that counts."""
        (answer,) = await self.ask(command, wait=wait)
        if isinstance(answer, Exception):
            raise trouble(answer, self.name, sent=False) from answer
        return answer

    async def run(self, script: str, keys: Sequence[str], *values: str | bytes | int) -> Any:
        """What the script returns."""
        return await self.ask_one("EVAL", script, len(keys), *keys, *values)

    async def run_for_number(
        self, script: str, keys: Sequence[str], *values: str | bytes | int
    ) -> int:
        """The number that the script returns."""
        answer = await self.run(script, keys, *values)
        with reading_answers(self.name, sent=False):
            return int(answer)

    async def aclose(self) -> None:
        """Leave at once."""
        self.is_usable = False
        await self._connection.disconnect(nowait=True)

    async def _answer(self) -> Any:
        try:
            return await self._connection.read_response()
        except ResponseError as error:
            return error
