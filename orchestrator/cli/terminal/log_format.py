"""The format of a service's log lines: for people, or as JSON for a collector."""

from __future__ import annotations

import logging
import sys
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from outbox.spelling import safe, safe_lines

if TYPE_CHECKING:
    from structlog.typing import EventDict, Processor

_LINES = ("exception", "stack")
_WORDS = ("event", "level", "logger", "timestamp")
_OURS = ("articles", "comments", "orchestrator", "outbox")


class LogFormat(StrEnum):
    """The two forms of a line."""

    TEXT = "text"
    JSON = "json"


class LogLevel(StrEnum):
    """The least important lines that are written."""

    DEBUG = "debug"
    """Also each step of a saga and each message that is handled; of our own code only."""
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


def configure_logging(form: LogFormat, level: LogLevel = LogLevel.INFO) -> None:
    """Send the log of everything in this process, from that level on, to stderr in that form."""
    # Here, since both bring too much for the start of every command.
    import structlog

    from outbox.tracing import TraceIds

    shared: list[Processor] = [
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.ExtraAdder(),
        _drop_colored_copy,
        _name_as_documented,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
    ]
    last: list[Processor]
    match form:
        case LogFormat.JSON:
            last = [structlog.processors.JSONRenderer()]
        case LogFormat.TEXT:
            colors = sys.stderr.isatty()
            last = [_one_line, structlog.dev.ConsoleRenderer(colors=colors, pad_event_to=0)]
    handler = logging.StreamHandler()
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *last],
        )
    )
    handler.addFilter(TraceIds())
    wanted = logging.getLevelNamesMapping()[level.name]
    logging.basicConfig(level=max(wanted, logging.INFO), handlers=[handler], force=True)
    for name in _OURS:
        logging.getLogger(name).setLevel(wanted)
    for chatty in ("alembic", "httpx"):
        logging.getLogger(chatty).setLevel(logging.WARNING)


def _one_line(_logger: object, _method: str, line: EventDict) -> EventDict:
    """Spell the text in one line. Only a traceback has further lines, none of which begins where
    those of the log do."""
    return {safe(key): _shown(key, value) for key, value in line.items()}


def _shown(key: str, value: object) -> object:
    if key in _LINES:
        return safe_lines(str(value))
    if key in _WORDS:
        return safe(value)
    if isinstance(value, str) and value.isprintable():
        return value
    return _Spelled(safe(repr(value)))


@dataclass(frozen=True)
class _Spelled:
    """A field's value, spelled for the line: structlog writes any value but a text by `repr`."""

    text: str

    def __repr__(self) -> str:
        return self.text


def _drop_colored_copy(_logger: object, _method: str, line: EventDict) -> EventDict:
    """Drop the coloured copy of uvicorn's message."""
    line.pop("color_message", None)
    return line


def _name_as_documented(_logger: object, _method: str, line: EventDict) -> EventDict:
    """Give the message's id its documented name `message`, which a log record does not allow."""
    if "message_id" in line:
        line["message"] = line.pop("message_id")
    return line
