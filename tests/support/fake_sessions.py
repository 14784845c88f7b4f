"""An attached process, in memory: an echo."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from uuid import UUID

from warmboot.model.sessions import LogChunk, Stream


class FakeSession:
    """Echoes its input. As a terminal: ``exit N`` ends it, ``size`` tells it, NUL is kept."""

    def __init__(self, command: tuple[str, ...], *, tty: bool, greeting: bytes = b"") -> None:
        self.tty, self.closed = tty, False
        self.size: tuple[int, int] | None = None
        self._out: asyncio.Queue[LogChunk | None] = asyncio.Queue()
        self._code: int | None = None
        self.over = asyncio.Event()
        self.of: UUID | None = None
        """The container whose own process it is."""
        self._line = b""
        self._interactive = command[0] in ("sh", "cat")
        if greeting:
            self._say(greeting)
        if self._interactive:
            if tty:
                self._say(b"$ ")
        else:
            chunk, code = run_command(command)
            if chunk:
                self._out.put_nowait(chunk)
            self.end(code)

    def _say(self, data: bytes) -> None:
        self._out.put_nowait(LogChunk(Stream.STDOUT, data))

    def put(self, chunk: LogChunk) -> None:
        self._out.put_nowait(chunk)

    def end(self, code: int | None) -> None:
        if not self.over.is_set():
            self._code = code
            self._out.put_nowait(None)
            self.over.set()

    async def __aiter__(self) -> AsyncIterator[LogChunk]:
        while (chunk := await self._out.get()) is not None:
            yield chunk

    async def write(self, data: bytes) -> None:
        if not self.tty:
            self._say(data)
            return
        for byte in data:
            char = bytes((byte,))
            if char == b"\x04":
                self.end(0)
            elif char == b"\r":
                self._say(b"\r\n")
                self._read_line(self._line.decode("utf-8", "replace").split())
                self._line = b""
            else:
                self._line += char
                self._say(char)

    def _read_line(self, words: list[str]) -> None:
        if words[:1] == ["exit"]:
            self.end(int(words[1]) if words[1:] else 0)
            return
        if words[:1] == ["size"]:
            self._say(f"{self.size}\r\n".encode())
        self._say(b"$ ")

    async def write_eof(self) -> None:
        self.end(0)

    async def resize(self, rows: int, columns: int) -> None:
        self.size = (rows, columns)

    async def exit_code(self) -> int | None:
        return self._code

    async def close(self) -> None:
        self.closed = True
        self.over.set()


def run_command(command: tuple[str, ...]) -> tuple[LogChunk | None, int]:
    words = " ".join(command[1:]).encode() + b"\n"
    match command[0]:
        case "echo":
            return LogChunk(Stream.STDOUT, words), 0
        case "err":
            return LogChunk(Stream.STDERR, words), 0
        case "exit":
            return None, int(command[1])
        case _:
            return LogChunk(Stream.STDERR, f"{command[0]}: not found\n".encode()), 127
