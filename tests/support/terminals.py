"""A terminal with a user in front of it: what the command line shows, and what is typed."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import pty
import struct
import sys
import termios

from tests.support.vms import Site, eventually


class Terminal:
    """A pseudo-terminal with a ``warmboot`` on it. Use as an async context manager."""

    def __init__(self, site: Site, *words: str) -> None:
        self._site, self._words = site, words
        self._seen = ""

    async def __aenter__(self) -> Terminal:
        self._master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 31, 97, 0, 0))
        os.set_blocking(self._master, False)
        self._process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "warmboot.cli", *self._words),
            env={k: v for k, v in self._site.environment.items() if k != "COLUMNS"},
            stdin=slave,
            stdout=slave,
            stderr=slave,
            start_new_session=True,
        )
        os.close(slave)
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._process.returncode is None:
            self._process.kill()
        await self._process.wait()
        os.close(self._master)

    def type(self, text: str) -> None:
        os.write(self._master, text.encode())

    async def shows(self, text: str, timeout_s: float = 60.0) -> str:
        """Return when ``text`` was shown, with what came before it."""

        async def look() -> str | None:
            with contextlib.suppress(BlockingIOError, OSError):
                self._seen += os.read(self._master, 65_536).decode(errors="replace")
            return self._seen if text in self._seen else None

        await eventually(look, f"{text!r} on the terminal; it shows {self._seen!r}", timeout_s)
        before, _, self._seen = self._seen.partition(text)
        return before

    async def ends(self, timeout_s: float = 60.0) -> int:
        """The exit code. Its output is read meanwhile, or it could not end."""

        async def look() -> bool:
            with contextlib.suppress(BlockingIOError, OSError):
                self._seen += os.read(self._master, 65_536).decode(errors="replace")
            return self._process.returncode is not None

        await eventually(look, f"the end of warmboot {self._words}", timeout_s)
        assert self._process.returncode is not None
        return self._process.returncode
