"""The trials of a participant go on after every answer, and each tells what is wrong."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

import orjson
import pytest

from orchestrator.testing.conforming.line import Line
from orchestrator.testing.conforming.running import TRIALS, conform
from orchestrator.testing.conforming.trial import Ending
from outbox.clock import SystemClock
from outbox.ids import Ids
from outbox.replies import Outcome
from outbox.transports.http.signing import Keyring
from outbox.wire.envelope import BATCH
from tests.support.http.servers import serving

Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

KEYS = Keyring({"one": b"1" * 32, "two": b"2" * 32}, "one")
_VALUES: list[Any] = [
    None,
    7,
    -1.5,
    "x" * 10_000,
    "\x1b[2J",
    [],
    [[[]]],
    {},
    {"balance": "1", "commands": [1, None]},
    {"balance": 1, "commands": [{}]},
    {"balance": True, "commands": []},
    {"balance": 0, "commands": ["x" * 10_000, "\x00"[:0]]},
]
_CODES = ["no", "pending", "unknown-type", "invalid", "conflict", "x" * 10_000, "\x1b]0;x\x07"]
_BODIES = [b"", b"[]", b"{}", b"null", b"[" * 5_000, b"\xff", b'["a"]', b'[{"data":1}]']


class Odd:
    """A participant that answers anything, by chance."""

    def __init__(self, seed: int) -> None:
        self._chance = random.Random(seed)
        clock = SystemClock()
        self._ids = Ids(clock, self._chance.randbytes)

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        body = b""
        while True:
            message = await receive()
            body += message.get("body", b"")
            if not message.get("more_body"):
                break
        status, answer = self._answer(body)
        headers = [(b"content-type", BATCH.encode()), (b"location", b"/\xe9")]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": answer})

    def _answer(self, body: bytes) -> tuple[int, bytes]:
        pick = self._chance.choice
        if self._chance.random() < 0.1:
            return pick([200, 200, 204, 302, 400, 401, 404, 413, 415, 418, 500, 503]), pick(_BODIES)
        try:
            asked = orjson.loads(body)
            return 200, orjson.dumps([self._reply(it) for it in asked])
        except (orjson.JSONDecodeError, KeyError, TypeError):
            return 400, b""

    def _reply(self, asked: Any) -> Any:
        pick = self._chance.choice
        data = {"outcome": pick(list(Outcome)).value, "value": pick(_VALUES), "code": pick(_CODES)}
        if asked["type"] == "conform.read.v1" and self._chance.random() < 0.7:
            data = {"outcome": "done", "value": {"balance": 0, "commands": []}}
        return {
            "specversion": "1.0",
            "id": self._ids(),
            "source": "conform",
            "type": "sagabox.reply.v1",
            "time": "2030-01-01T00:00:00Z",
            "partitionkey": "k",
            "causationid": asked["id"],
            "data": data | pick([{}, {"reason": "y" * 10_000}, {"after_pending": True}]),
        }


@pytest.mark.parametrize("seed", range(2))
async def test_no_answer_ends_the_trials(seed: int) -> None:
    async def restart() -> None:
        """It answers as before."""

    async with serving(Odd(seed)) as address:
        line = Line(
            address,
            to="conform",
            keys=KEYS,
            clock=SystemClock(),
            timeout=20.0,
            definite_within=0.05,
            restart_within=0.05,
        )
        line.attempts, line.pause = 2, 0.0
        try:
            results = [it async for it in conform(line, restart=restart)]
        finally:
            await line.aclose()
    assert [it.trial for it in results] == list(TRIALS)
    failed = [it for it in results if it.ending is Ending.FAILED]
    assert len(failed) > len(TRIALS) / 2
    for result in failed:
        assert result.came
        assert result.expected
        assert len(result.came) + len(result.expected) < 20_000
        assert max(map(len, result.sent), default=0) < 2_000
