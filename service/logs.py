"""JSON lines on standard error, one per event, without patient data: ids and digests only."""

from __future__ import annotations

import logging
import sys
import traceback
from types import TracebackType

import structlog
from sqlalchemy.exc import SQLAlchemyError

_TELLING = (OSError, RuntimeError, MemoryError, SQLAlchemyError)
"""Errors whose message is about the machine; that of others may quote what a client sent."""

_ExcInfo = tuple[type[BaseException], BaseException, TracebackType | None]


def configure_logs(level: str, process: str) -> None:
    """Send our events and those of libraries through one JSON renderer."""
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", key="ts"),
        structlog.processors.ExceptionRenderer(_without_values),
    ]
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.make_filtering_bound_logger(getattr(logging, level.upper())),
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )
    structlog.contextvars.bind_contextvars(process=process)
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            processor=structlog.processors.JSONRenderer(), foreign_pre_chain=shared
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(level.upper())
    for noisy in ("httpx", "uvicorn.access"):
        logging.getLogger(noisy).setLevel("WARNING")
    dbos = logging.getLogger("dbos")
    dbos.handlers = [logging.NullHandler()]  # keeps DBOS from adding its own
    dbos.propagate = True
    dbos.setLevel("WARNING")


def _without_values(exc_info: _ExcInfo) -> str:
    """Where an error came from, and what it says where that cannot be a patient's data."""
    lines = []
    error: BaseException | None = exc_info[1]
    while error is not None:
        said = f": {error}" if isinstance(error, _TELLING) else ""
        frames = traceback.extract_tb(error.__traceback__)
        where = " > ".join(f"{frame.filename}:{frame.lineno} {frame.name}" for frame in frames)
        lines.append(f"{type(error).__name__}{said} at {where}")
        error = error.__cause__ or error.__context__
    return "\n".join(lines)
