"""Signals as users name them: ``TERM``, ``SIGTERM``, ``sigterm``, ``15``, ``RTMIN+3``."""

from __future__ import annotations

import re
import signal

_RT_MIN, _RT_MAX = r"RTMIN\+([1-9]|1[0-5])", r"RTMAX-([1-9]|1[0-4])"
_REAL_TIME = re.compile(f"{_RT_MIN}|{_RT_MAX}")
_NAMES = sorted(name.removeprefix("SIG") for name in signal.Signals.__members__)
SIGNAL_PATTERN = (
    r"^([1-9]|[1-5][0-9]|6[0-4]|"
    rf"(SIG)?({'|'.join(_NAMES)}|{_RT_MIN}|{_RT_MAX}))$"
)
"""Of those that are taken, the usual spellings: a client that keeps to them is never refused."""


def signal_name(text: str) -> str:
    """The signal as Docker takes it: ``SIGTERM``, or a number as it is. ``ValueError`` if
    there is none.
    """
    name = text.upper().removeprefix("SIG")
    if text.isascii() and text.isdigit():
        if 1 <= int(text) <= signal.SIGRTMAX:
            return str(int(text))
    elif f"SIG{name}" in signal.Signals.__members__ or _REAL_TIME.fullmatch(name):
        return f"SIG{name}"
    raise ValueError(f"{text!r} is not a signal; write for example TERM, SIGUSR1 or 15")
