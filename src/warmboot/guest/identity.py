"""A new identity, checked as a whole before any of it is applied.

The order matters: entropy first, so that nothing random is drawn from the pool that all clones
share; the token last, so that the VM counts as claimed only when all the rest has worked.
"""

from __future__ import annotations

import base64
import binascii
import re
import time
from collections.abc import Callable, Mapping
from typing import Any

from .system import System
from .wire import HttpError

_HOSTNAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_MACHINE_ID_FILE = "/etc/machine-id"
_MACHINE_ID = re.compile(r"[0-9a-f]{32}")
_TOKEN = re.compile(r"[\x21-\x7e]{16,512}")
_YEAR_2020_NS = 1_577_836_800 * 10**9
_YEAR_2200_NS = 7_258_118_400 * 10**9
_ENTROPY_BYTES = range(16, 4097)


class Identity:
    """Who this VM is to be. Made of a request's body; ``HttpError`` 400 says what is wrong."""

    def __init__(self, document: Mapping[str, Any]) -> None:
        self.hostname = _matching(document, "hostname", _HOSTNAME, "a host name label")
        self.machine_id = _matching(document, "machine_id", _MACHINE_ID, "32 hex digits")
        self.token = _matching(document, "token", _TOKEN, "16 to 512 printable characters")
        clock = document.get("clock_ns")
        if type(clock) is not int or not _YEAR_2020_NS <= clock <= _YEAR_2200_NS:
            raise HttpError(400, "clock_ns must be nanoseconds since 1970, from 2020 to 2200")
        self.clock_ns = clock
        text = document.get("entropy")
        try:
            self.entropy = base64.b64decode(text, validate=True) if isinstance(text, str) else b""
        except (binascii.Error, ValueError) as error:
            raise HttpError(400, f"entropy is no base64: {error}") from error
        if len(self.entropy) not in _ENTROPY_BYTES:
            raise HttpError(400, "entropy must be 16 to 4096 bytes, in base64")

    def is_of(self, system: System) -> bool:
        """Whether this VM is it already, whatever its token is."""
        try:
            return system.read_file(_MACHINE_ID_FILE).strip() == self.machine_id
        except OSError:
            return False

    def apply(self, system: System, claim: Callable[[str], None]) -> list[dict[str, str | float]]:
        """Do it, in order; returns what took how long. ``HttpError`` 500 names a failed step."""
        steps: list[dict[str, str | float]] = []
        started = time.monotonic()
        actions: tuple[tuple[str, Callable[[], None]], ...] = (
            ("entropy", lambda: system.add_entropy(self.entropy)),
            # The host read its clock before we began: what passed since then has passed.
            ("clock", lambda: system.set_clock(
                self.clock_ns + int((time.monotonic() - started) * 1e9)
            )),
            ("machine-id", lambda: system.write_file(_MACHINE_ID_FILE, f"{self.machine_id}\n")),
            ("hostname", lambda: self._take_name(system)),
            ("token", lambda: claim(self.token)),
        )  # fmt: skip
        for name, action in actions:
            begun = time.monotonic()
            try:
                action()
            except OSError as error:
                raise HttpError(500, f"the step {name} failed: {error}") from error
            steps.append({"name": name, "duration_s": time.monotonic() - begun})
        return steps

    def _take_name(self, system: System) -> None:
        system.set_hostname(self.hostname)
        system.write_file("/etc/hostname", f"{self.hostname}\n")
        system.write_file("/etc/hosts", f"127.0.0.1 localhost\n127.0.1.1 {self.hostname}\n")


def _matching(document: Mapping[str, Any], key: str, pattern: re.Pattern[str], meaning: str) -> str:
    value = document.get(key)
    if not isinstance(value, str) or not pattern.fullmatch(value):
        raise HttpError(400, f"{key} must be {meaning}")
    return value
