"""The front's log, beside its control socket: it does not grow for ever."""

from __future__ import annotations

import logging
from logging.handlers import RotatingFileHandler
from pathlib import Path

from warmboot.engine_socket.limits import MOST_LOG_BYTES
from warmboot.engine_socket.socket_file import LOG


def of(folder: Path) -> logging.Handler:
    handler = RotatingFileHandler(folder / LOG, maxBytes=MOST_LOG_BYTES, backupCount=1)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    return handler
