"""Signals as users name them: ``TERM``, ``SIGTERM``, ``sigterm``, ``15``, ``RTMIN+3``."""

from __future__ import annotations

import re
import signal

SIGNAL_PATTERN = r"^([0-9]{1,2}|[A-Za-z][A-Za-z0-9]*([+-][0-9]{1,2})?)$"
_REAL_TIME = re.compile(r"RTM(IN\+|AX-)[0-9]{1,2}")


def signal_name(text: str) -> str:
    """As Docker takes it: ``SIGTERM``, a number as it is. ``ValueError`` if there is none."""
    name = text.upper().removeprefix("SIG")
    if text.isascii() and text.isdigit():
        if 1 <= int(text) <= signal.SIGRTMAX:
            return str(int(text))
    elif f"SIG{name}" in signal.Signals.__members__ or _REAL_TIME.fullmatch(name):
        return f"SIG{name}"
    raise ValueError(f"{text!r} is not a signal; write for example TERM, SIGUSR1 or 15")
