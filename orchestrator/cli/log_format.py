"""How a service's log lines look: for people, or as JSON for a collector."""

from __future__ import annotations

import logging
import sys
from enum import StrEnum

import structlog
from structlog.typing import EventDict, Processor


class LogFormat(StrEnum):
    """The two forms of a line."""

    TEXT = "text"
    JSON = "json"


def configure_logging(form: LogFormat) -> None:
    """Send the log of everything in this process, from INFO on, to stderr in that form."""
    shared: list[Processor] = [
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.ExtraAdder(),
        _drop_colored_copy,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
    ]
    last: Processor
    match form:
        case LogFormat.JSON:
            last = structlog.processors.JSONRenderer()
        case LogFormat.TEXT:
            last = structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), pad_event_to=0)
    handler = logging.StreamHandler()
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, last],
        )
    )
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    for chatty in ("alembic", "httpx"):
        logging.getLogger(chatty).setLevel(logging.WARNING)


def _drop_colored_copy(_logger: object, _method: str, line: EventDict) -> EventDict:
    """uvicorn says everything twice: the second time in colours."""
    line.pop("color_message", None)
    return line
