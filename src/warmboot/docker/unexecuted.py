"""Programs that could not be executed, where that is told in the place of their output.

What the runtime finds out before it begins a program is an error of Docker's. Two things it tells
where the program's output would be, and nowhere else: that an exec was refused when its connection
had been taken over already, and what the kernel said when the program was to be executed. A
missing interpreter is of the latter kind, a program for another processor, and more arguments than
the kernel takes.
"""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, replace

from warmboot.docker.errors import exec_error
from warmboot.docker.sessions import AttachedSession, QuietSession
from warmboot.model.errors import CommandNotExecutable, CommandNotFound, WarmbootError
from warmboot.model.sessions import LogChunk

FAILED = 1
"""The runtime's exit code for what the kernel refused; Docker has others for what it refused."""

_BY_KERNEL = re.compile(r"exec container process (?:\(.*?\) )?`(?P<program>.*)`: (?P<why>.*)")
_EXEC_BY_KERNEL = re.compile(
    r"(?:\x1b\[1;31m)?exec(?: `(?P<program>.*)`)?: (?P<why>[A-Z][^\r\n\x1b]*)(?:\x1b\[0m)?\r?\n"
)
_EXEC_BY_RUNTIME = re.compile(r"(?P<why>OCI runtime exec failed: [^\r\n]*)\r?\n")
_BEGINNING = re.compile(
    rb'(?:\x1b\[1;31m)?(?:\{"msg":"exec container process|OCI runtime exec failed: |'
    rb"exec(?: `[^\n]*`)?: [A-Z])[^\n]*"
)
_LOG_LINE = re.compile(r"(?P<time>\d{4}-\d\d-\d\dT[\d:.]+Z )?(?P<line>\{.*\})\r?\n")

NotExecuted = CommandNotFound | CommandNotExecutable
Refusal = Callable[[bytes, int | None], WarmbootError | None]
"""Why a program was not executed, of all its output and its exit code; ``None`` if it was.

An exit code that is not known yet may be the one that is meant.
"""


def of_container(output: bytes, exit_code: int | None) -> NotExecuted | None:
    """Why a container's own program was not executed."""
    found = _line(output.decode(errors="replace"))
    return _by_kernel(*found) if found and exit_code in (FAILED, None) else None


def of_exec(program: str) -> Refusal:
    """Why a command in a running container was not executed."""

    def refusal(output: bytes, exit_code: int | None) -> WarmbootError | None:
        text = output.decode(errors="replace")
        if exit_code in (FAILED, None) and (found := _EXEC_BY_KERNEL.fullmatch(text)):
            return _by_kernel(found["program"] or program, found["why"])
        if exit_code != FAILED and (found := _EXEC_BY_RUNTIME.fullmatch(text)):
            return exec_error(found["why"])
        return None

    return refusal


def in_words(chunk: LogChunk) -> LogChunk:
    """The same of a container's log, with a sentence for the runtime's line."""
    match = _LOG_LINE.fullmatch(chunk.data.decode(errors="replace"))
    found = _line(match["line"]) if match else None
    if match is None or found is None:
        return chunk
    sentence = f"{match['time'] or ''}{_by_kernel(*found).brief}\n"
    return LogChunk(chunk.stream, sentence.encode())


@dataclass(slots=True)
class ExecutedSession:
    """A session whose program may not have been executed: then its output is an error of ours."""

    session: AttachedSession | QuietSession
    refusal: Refusal

    async def __aiter__(self) -> AsyncIterator[LogChunk]:
        """Output that could be told instead is kept until there is more, or until the end."""
        kept: LogChunk | None = None
        first = True
        async for chunk in self.session:
            if first or kept is not None:
                first = False
                so_far = chunk if kept is None else replace(chunk, data=kept.data + chunk.data)
                if (kept is None or kept.stream is chunk.stream) and self._may_be(so_far.data):
                    kept = so_far
                    continue
                if kept is not None:
                    yield kept
                    kept = None
            yield chunk
        if kept is not None:
            if error := self.refusal(kept.data, await self.session.exit_code()):
                raise error
            yield kept

    def _may_be(self, output: bytes) -> bool:
        """Whether it is, or goes on as, what the runtime writes: it may come in pieces."""
        begins = _BEGINNING.fullmatch(output) is not None
        return begins or self.refusal(output, None) is not None

    async def write(self, data: bytes) -> None:
        await self.session.write(data)

    async def write_eof(self) -> None:
        await self.session.write_eof()

    async def resize(self, rows: int, columns: int) -> None:
        await self.session.resize(rows, columns)

    async def exit_code(self) -> int | None:
        return await self.session.exit_code()

    async def close(self) -> None:
        await self.session.close()


def _line(text: str) -> tuple[str, str] | None:
    """The program and the kernel's reason, if ``text`` is the line that crun writes of them."""
    if not text.startswith('{"msg":"exec container process'):
        return None
    try:
        message = json.loads(text)["msg"]
    except (ValueError, KeyError, RecursionError):
        return None
    found = _BY_KERNEL.fullmatch(str(message))
    return (found["program"], found["why"]) if found else None


def _by_kernel(program: str, why: str) -> NotExecuted:
    if why == "No such file or directory":
        return CommandNotFound(
            f"{program!r} cannot be executed: what it is to be run with is missing",
            details="the interpreter in its first line, or its dynamic loader, is not in the image",
            resolution="install that in the image; a first line that ends in CR LF names another",
        )
    if why == "Exec format error":
        return CommandNotExecutable(
            f"{program!r} cannot be executed: it is no program for this machine",
            details="it is built for another processor, or a script without a first line `#!…`",
            resolution="use an image for this machine's processor, or run the script with a shell",
        )
    if why == "Argument list too long":
        return CommandNotExecutable(
            f"{program!r} cannot be executed: its arguments and environment are too large",
            details="Linux gives a program a quarter of its stack's limit for them",
            resolution="pass some of it in a file, or through standard input",
        )
    return CommandNotExecutable(
        f"{program!r} cannot be executed: {why[:1].lower()}{why[1:]}",
        details="the kernel refused it, or the interpreter that it names",
        resolution="name a program that is executable for the container's user",
    )
