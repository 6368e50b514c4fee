"""A connection to NATS on which each request has an answer or an error.

The library's own reconnecting is off: what it buffered meanwhile would be sent when no caller waits
for it any more. A connection that broke stays broken, and the next call makes another.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import re
import ssl
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription
from nats.errors import Error as NatsError

from outbox.transports.brokers.address import BrokerAddress
from outbox.transports.brokers.broker import BrokerAway, BrokerRefused

CONNECTING = 3.0
"""Seconds for one server of an address to let the client in."""
ANSWERING = 10.0
"""Seconds for an answer. A connection whose server is silent for two of them is given up."""
OWN = "Nats-"
"""What the names of headers begin with that are NATS's own."""
_LOOK = 0.5
_NO_RESPONDERS = "503"
_NOT_ENABLED = (10039, 10076)
_WRONG_CREDENTIALS = ("authorization violation", "authentication")
_REFUSALS = (
    *_WRONG_CREDENTIALS,
    "permissions violation",
    "certificate",
)

Take = Callable[[Msg], None]


class ApiError(Exception):
    """JetStream's refusal of a request, with its own numbers."""

    def __init__(self, answer: Mapping[str, Any]) -> None:
        super().__init__(str(answer.get("description", "no reason was given")))
        self.number = int(answer.get("err_code", 0))
        self.is_passing = int(answer.get("code", 0)) in (408, 429, 500, 503)
        """Whether it may go by itself: no leader yet, or no room for the request."""


@dataclass(frozen=True)
class _Question:
    subject: str
    answer: asyncio.Future[Msg]


class Connection:
    """One connection; `to` makes it. `largest` is the most bytes of a message, headers included."""

    def __init__(self) -> None:
        self._client = Client()
        self._inbox = self._client.new_inbox()
        self._numbers = itertools.count(1)
        self._questions: dict[str, _Question] = {}
        self._listeners: dict[str, Callable[[Exception], None]] = {}
        self._gone: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._trouble = ""
        self._is_let_in = False
        self._watch: asyncio.Task[None] | None = None
        self._subscriptions: set[Subscription] = set()

    @classmethod
    async def to(cls, address: BrokerAddress) -> Connection:
        """A connection to the first server of the address that lets the client in.

        Raises BrokerRefused where one refuses it, and BrokerAway where none is there.
        """
        troubles: list[str] = []
        for host, port in address.servers:
            connection = cls()
            try:
                await connection._open(address, host, port)
            except BaseException as error:
                trouble = connection._trouble or str(error) or type(error).__name__
                await connection.close()
                if isinstance(error, BrokerRefused) or not isinstance(error, Exception):
                    raise
                if any(it in trouble.lower() for it in _REFUSALS):
                    raise BrokerRefused(
                        f"{address} refuses the {_what_is_refused(trouble)}: {trouble}",
                        next_step="check the user, the password or the token in the address, the "
                        "authorities in ca=, and what the server allows that user",
                    ) from error
                if not isinstance(error, NatsError | OSError | TimeoutError | ssl.SSLError):
                    raise
                troubles.append(f"{host}:{port}: {trouble}")
            else:
                return connection
        raise BrokerAway(f"{address} cannot be reached ({'; '.join(troubles)})", sent=False)

    @property
    def is_open(self) -> bool:
        """Whether it can still be used, as far as is known."""
        return self._client.is_connected and not self._gone.done()

    @property
    def largest(self) -> int:
        """The most bytes of a message with its headers, as the server said."""
        return self._client.max_payload

    async def ask(
        self, subject: str, body: bytes = b"", headers: Mapping[str, str] | None = None
    ) -> asyncio.Future[Msg]:
        """Write a message; the future has its answer. It has BrokerAway where the connection
        breaks, and BrokerRefused where the right to the subject is missing.

        Raises BrokerAway(sent=False) where the connection is broken already.
        """
        token = str(next(self._numbers))
        answer: asyncio.Future[Msg] = asyncio.get_running_loop().create_future()
        answer.add_done_callback(lambda _: self._questions.pop(token, None))
        self._questions[token] = _Question(subject, answer)
        try:
            await self._write(subject, body, f"{self._inbox}.{token}", headers)
        except BaseException:
            answer.cancel()
            raise
        return answer

    async def tell(
        self,
        subject: str,
        body: bytes,
        reply: str = "",
        headers: Mapping[str, str] | None = None,
    ) -> None:
        """Write a message without waiting for an answer. Raises as `ask` does."""
        await self._write(subject, body, reply, headers)

    async def answered(self, subject: str, body: bytes = b"") -> Msg:
        """Ask, and wait for the answer. Raises BrokerAway and BrokerRefused."""
        answer = await self.ask(subject, body)
        try:
            async with asyncio.timeout(ANSWERING):
                return await answer
        except TimeoutError:
            raise BrokerAway(f"no answer within {ANSWERING:g} s", sent=True) from None

    async def api(self, subject: str, request: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Ask JetStream. Raises ApiError, BrokerAway and BrokerRefused."""
        body = json.dumps(request).encode() if request is not None else b""
        message = await self.answered(f"$JS.API.{subject}", body)
        if is_unheard(message):
            raise _without_jetstream("no server answers for it")
        answer: dict[str, Any] = json.loads(message.data)
        if "error" in answer:
            error = ApiError(answer["error"])
            if error.number in _NOT_ENABLED:
                raise _without_jetstream(str(error))
            raise error
        return answer

    async def listen(self, take: Take) -> tuple[str, Callable[[], Awaitable[None]]]:
        """An address for answers that come one by one: each is given to `take`. With it comes what
        ends that. Raises BrokerAway."""

        async def each(message: Msg) -> None:
            take(message)

        subject = f"{self._inbox}-{next(self._numbers)}"
        try:
            listening = await self._subscribe(subject, each)
        except (NatsError, OSError) as error:
            raise self._away(error, sent=False) from error

        async def end() -> None:
            self._subscriptions.discard(listening)
            with contextlib.suppress(NatsError, OSError):
                await listening.unsubscribe()
            _end(_task(listening, "_wait_for_msgs_task"))

        return subject, end

    def when_ended(self, subject: str, do: Callable[[Exception], None]) -> None:
        """Call that with BrokerAway when the connection breaks, and with BrokerRefused where the
        right to the subject turns out to be missing; `forget` ends it."""
        self._listeners[subject.lower()] = do

    def forget(self, subject: str) -> None:
        """Call no listener for that subject any more."""
        self._listeners.pop(subject.lower(), None)

    async def close(self) -> None:
        """Close it. Never raises; twice is fine."""
        self._lose("the connection is closed")
        if self._watch is not None:
            self._watch.cancel()
        with contextlib.suppress(Exception):
            # It waits for what is written; a silent server never reads that.
            async with asyncio.timeout(1.0):
                await self._client.close()
        for listening in self._subscriptions:
            _end(_task(listening, "_wait_for_msgs_task"))

    async def _open(self, address: BrokerAddress, host: str, port: int) -> None:
        scheme = "tls" if address.tls else "nats"
        context = _tls(address)
        secrets: dict[str, Any] = {}
        if address.password is not None:
            secrets = {"user": lambda: self._secret(address, address.user or "")}
            secrets["password"] = lambda: self._secret(address, address.password or "")
        elif address.user is not None:
            secrets = {"token": lambda: self._secret(address, address.user or "")}
        async with asyncio.timeout(CONNECTING):
            await self._client.connect(
                f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}",
                name="sagabox",
                error_cb=self._note,
                closed_cb=self._closed,
                allow_reconnect=False,
                reconnect_time_wait=0,
                max_reconnect_attempts=1,
                connect_timeout=int(CONNECTING),
                ping_interval=int(ANSWERING),
                max_outstanding_pings=1,
                # Nothing is buffered, and no write waits for room.
                pending_size=0,
                tls=context,
                **secrets,
            )
            self._require_tls(address)
            _hear_out(_task(self._client, "_flusher_task"))
            self._watch = asyncio.create_task(self._look())
            await self._subscribe(f"{self._inbox}.*", self._answer)
            # The first may overtake the subscription; the second comes back after its refusal.
            await self._flush()
            await self._flush()
        if self._trouble:
            raise NatsError(self._trouble)
        self._is_let_in = True

    async def _flush(self) -> None:
        """Return when the server has read all. The library waits on where the server has gone."""
        flushing = asyncio.ensure_future(self._client.flush(int(CONNECTING)))
        try:
            either: set[asyncio.Future[None] | asyncio.Future[str]] = {flushing, self._gone}
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
            if self._gone.done():
                raise NatsError(self._gone.result())
            flushing.result()
        finally:
            flushing.cancel()

    async def _subscribe(
        self, subject: str, take: Callable[[Msg], Awaitable[None]]
    ) -> Subscription:
        """Without limits: what is left out for them would be missing."""
        listening = await self._client.subscribe(
            subject, cb=take, pending_msgs_limit=0, pending_bytes_limit=0
        )
        self._subscriptions.add(listening)
        return listening

    def _secret(self, address: BrokerAddress, secret: str) -> str:
        self._require_tls(address)
        return secret

    def _require_tls(self, address: BrokerAddress) -> None:
        """No secret and no message leave in the clear where the address says TLS: the library
        itself asks for TLS only where the server does."""
        told: Mapping[str, Any] = getattr(self._client, "_server_info", {})
        if address.tls and not told.get("tls_required", False):
            raise BrokerRefused(
                f"{address} does not ask for TLS, which the address names",
                next_step="give the server a tls block, or write nats:// where the network is safe",
            )

    async def _write(
        self, subject: str, body: bytes, reply: str, headers: Mapping[str, str] | None
    ) -> None:
        if not self.is_open:
            raise self._away(None, sent=False)
        try:
            await self._client.publish(
                subject, body, reply=reply, headers=dict(headers) if headers is not None else None
            )
        except (NatsError, OSError) as error:
            raise self._away(error, sent=False) from error

    def _away(self, error: Exception | None, *, sent: bool) -> BrokerAway:
        gone = self._gone.result() if self._gone.done() else ""
        return BrokerAway(gone or str(error) or "the connection is broken", sent=sent)

    async def _answer(self, message: Msg) -> None:
        question = self._questions.get(message.subject.rpartition(".")[2])
        if question is not None and not question.answer.done():
            question.answer.set_result(message)

    async def _note(self, error: Exception) -> None:
        """What the library tells of trouble; a missing right is told so, and never answered."""
        trouble = str(error).removeprefix("nats: ") or type(error).__name__
        found = re.search(r'permissions violation for \w+ to "([^"]*)"', trouble.lower())
        if found is None or not self._is_let_in:
            self._trouble = trouble
        if found is None:
            return
        refused = BrokerRefused(
            f"NATS refuses: {trouble}",
            next_step="allow the user of the address to publish there; docs/operate/nats.md "
            "lists what it needs",
        )
        for question in [*self._questions.values()]:
            if question.subject.lower() == found[1] and not question.answer.done():
                question.answer.set_exception(refused)
        if found[1] in self._listeners:
            self._listeners[found[1]](refused)

    async def _closed(self) -> None:
        self._lose(self._trouble or "the connection broke")

    async def _look(self) -> None:
        """The library does not always tell that a connection is closed: a write that fails while it
        closes keeps it from that."""
        while self._client.is_connected:  # noqa: ASYNC110 - it has no event for that
            await asyncio.sleep(_LOOK)
        self._lose(self._trouble or "the connection broke")

    def _lose(self, reason: str) -> None:
        if self._gone.done():
            return
        self._gone.set_result(reason)
        for question in [*self._questions.values()]:
            if not question.answer.done():
                question.answer.set_exception(BrokerAway(reason, sent=True))
        for tell in [*self._listeners.values()]:
            tell(BrokerAway(reason, sent=False))


def _what_is_refused(trouble: str) -> str:
    is_entry = any(it in trouble.lower() for it in _WRONG_CREDENTIALS)
    return "credentials" if is_entry else "connection"


def _without_jetstream(reason: str) -> BrokerRefused:
    return BrokerRefused(
        f"NATS has no JetStream for this client: {reason}",
        next_step="start the server with jetstream and a store_dir, and enable it for the account "
        "of the address",
    )


def _tls(address: BrokerAddress) -> ssl.SSLContext:
    """For a server that asks for TLS. Raises BrokerRefused where the files cannot be read."""
    ca, certificate = address.options.get("ca"), address.options.get("cert")
    try:
        context = ssl.create_default_context(cafile=ca)
        if certificate is not None:
            context.load_cert_chain(certificate, address.options.get("key"))
    except OSError as error:  # of which SSLError is one
        raise BrokerRefused(
            f"a file for TLS of {address} cannot be read, of {_files(address)}: {error}",
            next_step="let ca=, cert= and key= name files in PEM that the process may read",
        ) from error
    return context


def _files(address: BrokerAddress) -> str:
    names = ("ca", "cert", "key")
    return " ".join(f"{it}={address.options[it]}" for it in names if it in address.options)


def _task(owner: object, name: str) -> asyncio.Task[None] | None:
    """A task of the library's own. Where a write fails while it closes, it leaves some behind."""
    task = getattr(owner, name, None)
    return task if isinstance(task, asyncio.Task) else None


def _end(task: asyncio.Task[None] | None) -> None:
    if task is not None:
        task.cancel()


def _hear_out(task: asyncio.Task[None] | None) -> None:
    """Take note of its error, which no other task asks for: that the connection broke is told."""
    if task is not None:
        task.add_done_callback(lambda it: None if it.cancelled() else it.exception())


def is_unheard(message: Msg) -> bool:
    """Whether that answer says that no client listens to the subject."""
    return status(message) == _NO_RESPONDERS


def status(message: Msg) -> str | None:
    """The number in a message of the server's own; None for all others."""
    return (message.headers or {}).get("Status") if not message.data else None
