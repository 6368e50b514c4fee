"""The conversation of one trial with the participant: requests, answers, and what is wrong."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any, TypeVar

import orjson

from orchestrator.testing.conforming.line import Line
from orchestrator.testing.conforming.messages import Author, Sent, batch
from orchestrator.testing.conforming.trial import Broken, Skipped
from outbox.errors import MalformedEnvelope
from outbox.ids import Ids
from outbox.replies import Outcome, Reply
from outbox.safe_text import fit
from outbox.transports.http.posting import Answer, NoAnswer
from outbox.wire.envelope import BATCH, replies_from_batch

R = TypeVar("R")
Restart = Callable[[], Awaitable[None]]

_NOT_NOW = frozenset({Outcome.TOO_BUSY, Outcome.ONGOING, Outcome.NOT_ATTEMPTED})
_BUSY = (429, 503)
_MOST_TOLD = 8
_SHORT = 300
_WORD = 60


class Conversation(Author):
    """What a trial says to the participant, and hears of it."""

    def __init__(self, line: Line, restart: Restart | None) -> None:
        super().__init__(Ids(line.clock, line.entropy), line.clock.now)
        self.line = line
        self._restart = restart
        self._told: list[str] = []

    @property
    def told(self) -> tuple[str, ...]:
        """The last exchanges, a line each."""
        left_out = len(self._told) - _MOST_TOLD
        before = [f"({left_out} more before)"] if left_out > 0 else []
        return (*before, *self._told[-_MOST_TOLD:])

    # Requests

    async def post(
        self, messages: Sequence[Sent], told: str = "", *, log: bool = True, **how: Any
    ) -> Answer | NoAnswer:
        """One request with these messages, and `Line.post` has the other arguments. `told` says
        what is special about it."""
        return await self.post_body(
            batch(messages), f"[{_names(messages)}] {told}".strip(), log=log, **how
        )

    async def post_body(
        self, body: bytes, told: str, *, log: bool = True, **how: Any
    ) -> Answer | NoAnswer:
        """One request with that body."""
        answer = await self.line.post(body, **how)
        if log:
            self._told.append(f"{told} -> {described(answer)}")
        return answer

    async def try_once(self, messages: Sequence[Sent], **how: Any) -> list[Reply]:
        """The replies to one request. Raises Broken where it has none, or they cannot be read."""
        told = how.pop("told", "")
        answer = await self.post(messages, told, log=False, **how)
        line = f"[{_names(messages)}] {told}".strip()
        try:
            replies = replies_in(answer, [it.id for it in messages])
        except Broken:
            self._told.append(f"{line} -> {described(answer)}")
            raise
        self._told.append(f"{line} -> {_shown(replies)}")
        return replies

    async def replies(
        self, messages: Sequence[Sent], expected: Sequence[str] = (), **how: Any
    ) -> list[Reply]:
        """The replies, once none of them says "not now" that is not expected to."""
        replies: list[Reply] = []
        for number in range(self.line.attempts):
            if number:
                await asyncio.sleep(self.line.pause)
            try:
                replies = await self.try_once(messages, **how)
            except Unanswered as unanswered:
                if not unanswered.is_busy or number == self.line.attempts - 1:
                    raise
                continue
            if not any(
                reply.outcome in _NOT_NOW and not reply.is_pending and not _fits(reply, wanted)
                for reply, wanted in zip(replies, expected or [""] * len(replies), strict=True)
            ):
                break
        return replies

    async def answers(self, messages: Sequence[Sent], *expected: str, **how: Any) -> list[Reply]:
        """The replies, which have these outcomes: each "done", "rejected/conflict" with its code,
        or several of them between "or". Raises Broken."""
        replies = await self.replies(messages, expected, **how)
        wrong = [
            (sent.name, reply, wanted)
            for sent, reply, wanted in zip(messages, replies, expected, strict=True)
            if not _fits(reply, wanted)
        ]
        if wrong:
            raise Broken(
                "; ".join(f"{name}: {worded(reply)}" for name, reply, _ in wrong),
                "; ".join(f"{name}: {wanted}" for name, _, wanted in wrong),
            )
        return replies

    async def until_answered(
        self, messages: Sequence[Sent], deadline: float | None = None
    ) -> list[Reply]:
        """The definite replies, however often the participant must be asked, for that many seconds:
        `Line.definite_within`, unless it is restarted meanwhile."""
        within = self.line.definite_within if deadline is None else deadline
        end = asyncio.get_running_loop().time() + within
        while True:
            answer = await self.line.post(batch(messages))
            try:
                replies = replies_in(answer, [it.id for it in messages])
            except Unanswered:
                if asyncio.get_running_loop().time() > end:
                    self._told.append(f"[{_names(messages)}], again and again -> no replies")
                    raise
            else:
                if all(it.outcome.is_final for it in replies):
                    self._told.append(f"[{_names(messages)}] -> {_shown(replies)}")
                    return replies
                if asyncio.get_running_loop().time() > end:
                    raise Broken(_shown(replies), "definite replies in the end")
            await asyncio.sleep(self.line.pause)

    async def together(self, *requests: Coroutine[Any, Any, R]) -> list[R]:
        """The results of requests that are made at once. None goes on where one raises."""
        tasks = [asyncio.create_task(it) for it in requests]
        try:
            return await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    # What must be so

    async def entries(self, account: str) -> list[str]:
        """The ids of the commands whose entries the account has, in their order."""
        return list((await self._read(account))["commands"])

    async def has(self, account: str, *commands: Sent, ordered: bool = True) -> None:
        """Raises Broken where the account has not the entries of exactly these commands."""
        found = await self.entries(account)
        wanted = [it.id for it in commands]
        if found != wanted if ordered else sorted(found) != sorted(wanted):
            names = {it.id: it.name for it in commands}
            raise Broken(
                f"the entries of {_listed([names.get(it, fit(it)[:_WORD]) for it in found])}",
                f"the entries of {_listed([it.name for it in commands])}",
            )

    def same(self, first: Reply, again: Reply) -> None:
        """Raises Broken where the second reply to a message is not the first one."""
        if (first.outcome, first.value, first.code) != (again.outcome, again.value, again.code):
            raise Broken(f"first {worded(first)}, then {worded(again)}", "the same reply twice")

    def status(self, answer: Answer | NoAnswer, *expected: int, closed: bool = False) -> None:
        """Raises Broken where the answer has another status. `closed`: the connection may be closed
        in place of an answer."""
        if isinstance(answer, NoAnswer):
            if closed and answer.sent:
                return
            raise Broken(described(answer), f"the status {_either(expected)}")
        if answer.status not in expected:
            raise Broken(described(answer), f"the status {_either(expected)}")

    # The participant itself

    async def restart(self) -> None:
        """Restart the participant, and return when it answers again. Raises Skipped where there is
        no way to restart it, Broken where it does not come back."""
        if self._restart is None:
            raise Skipped("there is no --restart command, and no person to ask")
        await self._restart()
        self._told.append("(the participant is restarted)")
        await self.until_there()

    async def until_there(self) -> None:
        """Return when the participant answers. Raises Broken where it does not in time."""
        read = self.command("read", self.account())
        await self.until_answered([read], self.line.restart_within)

    async def _read(self, account: str) -> dict[str, Any]:
        (reply,) = await self.answers([self.command("read", account)], "done")
        value = reply.value
        if (
            not isinstance(value, dict)
            or not isinstance(value.get("commands"), list)
            or not all(isinstance(it, str) for it in value["commands"])
            or type(value.get("balance")) is not int
        ):
            raise Broken(
                f"the value {_cut(value)}", 'a value {"balance": N, "commands": [ID, ...]}'
            )
        return value


class Unanswered(Broken):
    """There is no answer, or one of trouble (429, 5xx): the same is asked again. `is_busy` says
    that the participant asked for that (429, 503)."""

    is_busy = False


def replies_in(answer: Answer | NoAnswer, ids: Sequence[str]) -> list[Reply]:
    """The replies in an answer. Raises Broken that says why there are none."""
    expected = "200 with a reply for each message"
    if isinstance(answer, NoAnswer) or answer.status in _BUSY or answer.status >= 500:
        unanswered = Unanswered(described(answer), expected)
        unanswered.is_busy = isinstance(answer, Answer) and answer.status in _BUSY
        raise unanswered
    if answer.status != 200:
        raise Broken(described(answer), expected)
    media_type = answer.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type != BATCH:
        raise Broken(f"200 with the content type {fit(media_type)!r}", f"the content type {BATCH}")
    try:
        replies = replies_from_batch(answer.body, ids)
        many = len(orjson.loads(answer.body))
    except MalformedEnvelope as error:
        raise Broken(f"200, but {fit(error.problem)}", expected) from None
    if many != len(ids):
        raise Broken(f"{many} replies to {len(ids)} messages", expected)
    return replies


def described(answer: Answer | NoAnswer) -> str:
    """The answer in a line."""
    if isinstance(answer, NoAnswer):
        return f"no answer: {fit(answer.reason)}"
    if 300 <= answer.status < 400:
        location = answer.headers.get("location", "nowhere")
        return f"{answer.status}, a redirect to {fit(location)[:100]}"
    try:
        problem = orjson.loads(answer.body)
        detail = f" {fit(str(problem['code']))[:_WORD]}" if "code" in problem else ""
    except (orjson.JSONDecodeError, TypeError):
        detail = ""
    return f"{answer.status}{detail}"


def worded(reply: Reply) -> str:
    """The reply in a line."""
    value = "" if reply.value is None else f" with the value {_cut(reply.value)}"
    reason = f" ({fit(reply.reason)[:_SHORT]})" if reply.reason else ""
    return f"{_word(reply)}{value}{reason}"


def _word(reply: Reply) -> str:
    code = fit(reply.code)[:_WORD] if reply.code else ""
    return (
        f"{reply.outcome.value}/{code}" if code not in ("", reply.outcome) else reply.outcome.value
    )


def _fits(reply: Reply, wanted: str) -> bool:
    for each in wanted.split(" or "):
        outcome, _, code = each.partition("/")
        if reply.outcome == outcome and (not code or reply.code == code):
            return True
    return False


def _names(messages: Sequence[Sent]) -> str:
    names = [it.name for it in messages]
    return ", ".join(names if len(names) <= 6 else [*names[:5], f"and {len(names) - 5} more"])


def _shown(replies: Sequence[Reply]) -> str:
    words = list(map(_word, replies))
    return ", ".join(words if len(words) <= 6 else [*words[:5], f"and {len(words) - 5} more"])


def _listed(names: Sequence[str]) -> str:
    if not names:
        return "none"
    return ", ".join(names if len(names) <= 6 else [*names[:5], f"and {len(names) - 5} more"])


def _either(statuses: Sequence[int]) -> str:
    return " or ".join(map(str, statuses))


def _cut(value: object) -> str:
    text = orjson.dumps(value).decode()
    return fit(text if len(text) <= _SHORT else text[:_SHORT] + "...")
