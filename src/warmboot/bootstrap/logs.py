"""The logging of the service: one line per event on standard error.

What libraries log by ``logging`` comes out in the same form. Of warnings and errors of one kind
(the same words) one line a second is written; the next one says how many were left out.
"""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections.abc import Callable
from typing import Literal

import structlog

_KIND = "_kind"
KINDS = 1024
"""So many kinds are remembered at most."""


def configure_logging(form: Literal["console", "json"], level: str) -> None:
    """``LEVEL message key=value``, or JSON."""
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        _once_a_second,
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
    logging.basicConfig(handlers=[_Handed()], level=logging.WARNING, force=True)


class OncePerSecond:
    """Lets one message of each kind through per second."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._kinds: dict[str, tuple[float, int]] = {}  # until when, and how many were left out

    def left_out(self, kind: str) -> int | None:
        """How many of ``kind`` were left out since the last; ``None``: leave this one out."""
        now = self._clock()
        with self._lock:
            until, count = self._kinds.get(kind, (now, 0))
            if now < until:
                self._kinds[kind] = (until, count + 1)
                return None
            if len(self._kinds) >= KINDS:
                self._kinds = {one: entry for one, entry in self._kinds.items() if entry[0] > now}
            self._kinds[kind] = (now + 1.0, 0)
            return count


_limit = OncePerSecond()


def _once_a_second(
    _: object, method: str, event: structlog.typing.EventDict
) -> structlog.typing.EventDict:
    if method in ("debug", "info"):
        event.pop(_KIND, None)
        return event
    left_out = _limit.left_out(f"{method} {event.pop(_KIND, event.get('event'))}"[:300])
    if left_out is None:
        raise structlog.DropEvent
    return {**event, "left_out": left_out} if left_out else event


class _Handed(logging.Handler):
    """Hands what was logged by ``logging`` to structlog."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            message = record.getMessage()
        except (TypeError, ValueError):  # arguments that do not fit: logging's own rule
            self.handleError(record)
            return
        failed: dict[str, object] = {"exc_info": record.exc_info[1]} if record.exc_info else {}
        # Of one kind is what has one template: its values may come from whoever asks.
        failed[_KIND] = f"{record.name} {record.msg}".partition("\n")[0]
        structlog.get_logger(record.name).log(max(record.levelno, 10), message, **failed)


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
