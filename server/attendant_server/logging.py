"""Structured logs: one event a line, with the request's id, for people (console) or programs (JSON).

Fields come as keyword arguments of ``log_event``. Prompts, outputs, keys and headers are never among them: what is
logged of a request is its id, its sizes, its code and its times.
"""

import json
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any, Literal, TextIO

PACKAGES = ("attendant_server", "attendant_engine")

_request_id: ContextVar[str] = ContextVar("attendant_request_id", default="")


@contextmanager
def bind_request_id(request_id: str) -> Iterator[None]:
    """Put ``request_id`` on every line that this task logs meanwhile."""
    token = _request_id.set(request_id)
    try:
        yield
    finally:
        _request_id.reset(token)


def log_event(logger: logging.Logger, level: int, event: str, /, *, exc_info: BaseException | None = None, **fields: Any) -> None:
    """Log ``event`` with ``fields``. ``request_id`` among them overrides the bound one. ``exc_info`` adds a trace, for the operator."""
    if logger.isEnabledFor(level):
        logger.log(level, event, extra={"attendant_fields": fields}, exc_info=exc_info)


def configure_logging(*, log_format: Literal["console", "json"], level: str, stream: TextIO | None = None) -> None:
    """Send our packages' logs to ``stream`` (standard error by default); calling it again replaces what was set."""
    handler = logging.StreamHandler(stream if stream is not None else sys.stderr)
    handler.setFormatter(JsonFormatter() if log_format == "json" else ConsoleFormatter())
    for package in PACKAGES:
        logger = logging.getLogger(package)
        for old in list(logger.handlers):
            logger.removeHandler(old)
        logger.addHandler(handler)
        logger.setLevel(level.upper())
        logger.propagate = False


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    fields: dict[str, Any] = dict(getattr(record, "attendant_fields", {}))
    request_id = fields.pop("request_id", "") or getattr(record, "request_id", "") or _request_id.get()
    return {"request_id": request_id, **fields} if request_id else fields


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time, level, logger, event, request_id and the fields."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line; anything that is not JSON is written as its string, in ASCII."""
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "event": record.getMessage(),
            **_fields(record),
        }
        if record.exc_info:
            line["trace"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


class ConsoleFormatter(logging.Formatter):
    """``time LEVEL event key=value ...`` for a terminal."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line; values are written as JSON, so that none can break it."""
        time = datetime.fromtimestamp(record.created).strftime("%H:%M:%S.%f")[:-3]
        fields = "".join(f" {key}={json.dumps(value, default=str)}" for key, value in _fields(record).items())
        line = f"{time} {record.levelname:<7} {json.dumps(record.getMessage())[1:-1]}{fields}"
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line
