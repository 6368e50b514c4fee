"""A uvicorn protocol that limits all of a request but its body, in bytes, lines and time.

uvicorn itself reads a head of any size and waits for its end as long as the client likes. A request
over a limit is answered by a problem, and the connection ends.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from typing import Any, Final

import httptools
from uvicorn.protocols.http.httptools_impl import (
    STATUS_LINE,
    HttpToolsProtocol,
    RequestResponseCycle,
)

from outbox.chassis.http.middleware import SECURITY_HEADERS
from outbox.chassis.http.problems import HttpProblem

log = logging.getLogger(__name__)

MAX_HEAD_BYTES: Final = 64 * 1024
MAX_HEAD_LINES: Final = 100
MAX_HEAD_SECONDS: Final = 10.0

_PIECE = 4096
"""Bytes that are parsed at once: a request may exceed a limit by so many before it is noticed."""
_CHUNK_FRAME = 16
"""Bytes that a chunk's frame is reckoned to take; the rest of a frame is an extension."""
_HELD = 1024 * 1024
"""The most bytes that wait unread behind requests of the same connection."""
_LINGERING_SECONDS = 1.0
_LINGERING_BYTES = 1024 * 1024
"""How long, and up to how many bytes, a refused client's further input is thrown away: if the
connection ended at once, the client would lose the answer with it."""


@dataclass(frozen=True)
class HeadLimits:
    """The limits of a request beside its body: `bytes` and `lines` of a head, and as many again of
    the frames and trailers around a chunked body; `seconds` from the connection, or from the first
    byte of the head, to its end."""

    bytes: int = MAX_HEAD_BYTES
    lines: int = MAX_HEAD_LINES
    seconds: float = MAX_HEAD_SECONDS


class BoundedHttp(HttpToolsProtocol):
    """uvicorn's protocol with limits: give it to `uvicorn.Config` or `uvicorn.run` as `http=`. It
    speaks no WebSockets."""

    def __init__(self, *args: Any, limits: HeadLimits | None = None, **options: Any) -> None:
        super().__init__(*args, **options)
        self._limits = limits or HeadLimits()
        self._held = bytearray()  # came behind a request that is not answered yet
        self._in_head = True
        self._begun = False  # a head has
        self._apart = 0  # bytes that were no body, since a head last began or ended
        self._body = 0  # bytes of a body and of the frames of its chunks, in this piece
        self._turned = False  # a head began or ended in this piece
        self._lines = 0
        self._timer: asyncio.TimerHandle | None = None
        self._lingers: int | None = None

    # Connection

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        super().connection_made(transport)
        self._timer = self.loop.call_later(self._limits.seconds, self._too_slow)

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        self._held.clear()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._lingers is not None:
            self._lingers -= len(data)
            if self._lingers < 0:
                self.transport.close()
            return
        self._held += data
        if len(self._held) > _HELD:
            self.transport.close()
            return
        self._parse()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if not self.transport.is_closing() and self._lingers is None:
            self._parse()

    # Callbacks of the parser

    def on_message_begin(self) -> None:
        self._begun = True
        self._lines = 0
        super().on_message_begin()

    def on_header(self, name: bytes, value: bytes) -> None:
        self._lines += 1
        if self._lines > self._limits.lines:
            raise _TooLarge
        if self._in_head:  # what trails behind a body would come too late: its request has begun
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._in_head = False
        self._turn()
        super().on_headers_complete()

    def on_chunk_header(self) -> None:
        self._body += _CHUNK_FRAME

    def on_body(self, body: bytes) -> None:
        self._body += len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._in_head = True
        self._begun = False
        self._turn()
        super().on_message_complete()

    def _turn(self) -> None:
        self._apart = self._body = 0
        self._turned = True

    def _should_upgrade_to_ws(self) -> bool:
        return False

    # Reading

    def _parse(self) -> None:
        """Read on, up to the beginning of a request behind one that is not answered yet."""
        if self._held:
            self._unset_keepalive_if_required()
        while self._held and not self.pipeline:
            room = self._limits.bytes - self._apart
            if room <= 0:
                self._refuse(self._too_large())
                return
            piece = bytes(self._held[: min(_PIECE, room)])
            del self._held[: len(piece)]
            if not self._parse_piece(piece) or self.transport.is_closing():
                return
        if self.pipeline:
            self.flow.pause_reading()
        self._mind_the_time()

    def _parse_piece(self, piece: bytes) -> bool:
        self._turned, self._body = False, 0
        try:
            self.parser.feed_data(piece)
        except httptools.HttpParserUpgrade:
            self._unsupported_upgrade_warning()
        except httptools.HttpParserError as error:
            is_large = isinstance(error.__context__, _TooLarge)
            self._refuse(self._too_large() if is_large else _MALFORMED)
            return False
        if not self._turned:
            self._apart = max(0, self._apart + len(piece) - self._body)
        return True

    # Time

    def _mind_the_time(self) -> None:
        """Run the timer while the service waits for the client: for the rest of a head, or for the
        body of a request that is answered already."""
        cycle: RequestResponseCycle | None = self.cycle
        answered = cycle is None or cycle.response_complete
        if not (answered and (self._begun or self._apart > 0 or not self._in_head)):
            self._stop_timer()
            return
        self._unset_keepalive_if_required()
        if self._timer is None:
            self._timer = self.loop.call_later(self._limits.seconds, self._too_slow)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _too_slow(self) -> None:
        self._timer = None
        if self._in_head and (self._begun or self._apart > 0):
            self._refuse(
                HttpProblem(
                    408,
                    "head-too-slow",
                    f"The request's head did not come within {self._limits.seconds:g} s.",
                    next_step="Send the request again.",
                )
            )
        else:
            self.transport.close()

    # Refusing

    def _too_large(self) -> HttpProblem:
        return HttpProblem(
            431,
            "head-too-large",
            f"The request has more than {self._limits.bytes} bytes or {self._limits.lines} header "
            "lines beside its body.",
            next_step="Send a shorter address and fewer headers, and no extensions of chunks.",
        )

    def _refuse(self, problem: HttpProblem) -> None:
        """Answer, and read nothing more. Where another answer is due first, end after that one."""
        log.warning("a request is refused: %s", problem.detail)
        self._stop_timer()
        self._held.clear()
        self._lingers = _LINGERING_BYTES
        cycle: RequestResponseCycle | None = self.cycle
        if cycle is not None and not cycle.response_complete:
            if self._in_head:
                cycle.keep_alive = False
                self.flow.pause_reading()
                return
            if cycle.response_started:
                self.transport.close()
                return
            # Its body is refused, so this is the answer in place of the application's.
            cycle.disconnected = True
            cycle.message_event.set()
        self.transport.write(_on_the_wire(problem))
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self.flow.resume_reading()
        self._timer = self.loop.call_later(_LINGERING_SECONDS, self.transport.close)


class _TooLarge(Exception):
    """Ends the parsing of a head with too many lines."""


_MALFORMED = HttpProblem(
    400,
    "malformed-request",
    "The request is no HTTP that can be read.",
    next_step="Send HTTP/1.1, without TLS.",
)


def _on_the_wire(problem: HttpProblem) -> bytes:
    answer = problem.to_response()
    headers = {k.encode(): v.encode() for k, v in SECURITY_HEADERS.items()}
    headers |= dict(answer.raw_headers) | {b"connection": b"close"}
    lines = [name + b": " + value + b"\r\n" for name, value in headers.items()]
    return b"".join([STATUS_LINE[problem.status], *lines, b"\r\n", bytes(answer.body)])
