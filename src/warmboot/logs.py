"""How the service logs: one line an event on standard error."""

from __future__ import annotations

import sys
from typing import Literal

import structlog


def configure_logging(form: Literal["console", "json"], level: str) -> None:
    """``LEVEL message key=value``, or JSON."""
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    if form == "json":
        rendering: list[structlog.typing.Processor] = [
            structlog.processors.dict_tracebacks,
            structlog.processors.JSONRenderer(),
        ]
    else:
        rendering = [spec_form]
    structlog.configure(
        processors=[*shared, *rendering],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )


def spec_form(_: object, __: str, event: structlog.typing.EventDict) -> str:
    """``<time> INFO message key=value``: the specification's form, time added."""
    level = str(event.pop("level", "info")).upper()
    level = "WARN" if level == "WARNING" else level
    time, message = event.pop("timestamp", ""), event.pop("event", "")
    error = event.pop("exc_info", None)
    rest = " ".join(f"{key}={value!r}" for key, value in event.items())
    lines = [f"{time} {level} {message} {rest}".rstrip()]
    if isinstance(error, BaseException):
        lines += structlog.processors.format_exc_info(None, "", {"exc_info": error})[
            "exception"
        ].splitlines()
    return "\n".join(lines)
