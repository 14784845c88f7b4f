"""What runs in a simulated container: a tiny command language; nothing of the host's is started.

Understood are ``true``, ``false``, ``exit N``, ``sleep N``, ``echo …`` (``>&2`` for stderr),
``printf FORMAT`` (with ``\\n`` and octal bytes), ``cat`` (stdin to stdout), ``head -n N`` and
``head -c N`` of stdin, ``yes``, ``seq N``, ``env``, ``printenv NAME``, ``hostname``, ``pwd`` and
``whoami``; ``trap '' SIGNAL…``, which ignores signals from then on; ``sh -c`` with a list of them
joined by ``;``, ``&&`` or ``||``; and ``sh`` alone, which takes such lines from stdin. ``missing``
and what is in ``/missing/`` is not there, and what is in ``/etc/`` cannot be executed. Anything
else runs until it is stopped.

A program is a JSON object (its steps, which one is next, when a sleep ends), so that it lies in the
machine's RAM and goes on after a restore where it stood.
"""

from __future__ import annotations

import asyncio
import re
import shlex
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

from warmboot.hypervisors.simulated.vmm.machine import GuestClock

SHELLS = frozenset({"sh", "bash", "ash", "dash"})
_TO_STDERR = ">2"
"""Stands for ``>&2`` in a compiled script: the lexer would take ``&`` for an operator."""
_PLAIN = frozenset({"true", "false", "cat", "yes", "env", "hostname", "pwd", "whoami"})

Program = dict[str, Any]
_YES_BYTES = 16 << 10


async def at_once() -> None:
    """Return at once: there is always room."""


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What a program sees. ``write`` takes 1 or 2 for stdout or stderr, and bytes; ``room`` waits
    until whoever reads them has kept up; ``ignore`` takes the names of signals.

    ``stdin`` yields lines or pieces of input and ``b""`` at its end; ``None``: there is no input.
    """

    clock: GuestClock
    environment: Sequence[str]
    hostname: str
    write: Callable[[int, bytes], None]
    stdin: asyncio.Queue[bytes] | None = None
    tty: bool = False
    user: str = "root"
    working_dir: str = "/"
    ignore: Callable[[Sequence[str]], None] = lambda names: None
    room: Callable[[], Awaitable[None]] = at_once


def refusal(argv: Sequence[str]) -> tuple[int, str] | None:
    """The exit code, and crun's words, for a command that cannot be executed."""
    program = argv[0] if argv else ""
    if argv and program in ("", "missing"):
        return 127, f"executable file `{program}` not found in $PATH: No such file or directory"
    if program.startswith("/missing/"):
        return 127, f"executable file `{program}` not found: No such file or directory"
    if program.startswith("/etc/"):
        why = "exists but it is not executable: Operation not permitted"
        return 126, f"the path `{program}` {why}"
    return None


def compile_command(argv: Sequence[str]) -> Program:
    """A program for a container's or exec's whole command line."""
    name = argv[0].rpartition("/")[2] if argv else ""
    if name in SHELLS and len(argv) >= 3 and re.fullmatch(r"-[a-z]*c", argv[1]):
        steps = _compile_script(argv[2])
    elif name in SHELLS and len(argv) == 1:
        steps = [{"op": "shell", "if": ""}]
    else:
        steps = [_compile_simple(argv, "")]
    return {"steps": steps, "next": 0, "status": 0, "wake_at": None}


def _compile_script(script: str) -> list[dict[str, Any]]:
    script = re.sub(r"\s*1?>\s*&2\b", f" {_TO_STDERR}", script).replace("\n", ";")
    lexer = shlex.shlex(script, posix=True, punctuation_chars=";&|")
    lexer.whitespace_split = True
    lexer.commenters = "#"
    steps: list[dict[str, Any]] = []
    words: list[str] = []
    condition = ""
    try:
        for word in [*lexer, ";"]:
            if word and set(word) <= set(";&|"):
                if words:
                    steps.append(_compile_simple(words, condition))
                    words = []
                condition = {"&&": "ok", "||": "failed"}.get(word, "")
            else:
                words.append(word)
    except ValueError:
        return [{"op": "echo", "text": "sh: syntax error", "to": 2, "if": ""}, _exit(2)]
    return steps


def _exit(status: int) -> dict[str, Any]:
    return {"op": "exit", "status": status, "if": ""}


def _compile_simple(argv: Sequence[str], condition: str) -> dict[str, Any]:
    name = argv[0].rpartition("/")[2] if argv else ""
    rest = list(argv[1:])
    step: dict[str, Any] = {"op": "forever", "if": condition}
    if name == "echo":
        to = 2 if rest and rest[-1] == _TO_STDERR else 1
        newline = "" if rest[:1] == ["-n"] else "\n"
        words = rest[1 if newline == "" else 0 : -1 if to == 2 else None]
        step |= {"op": "echo", "text": " ".join(words) + newline, "to": to}
    elif name == "sleep" and len(rest) == 1 and re.fullmatch(r"\d+(\.\d+)?", rest[0]):
        step |= {"op": "sleep", "seconds": float(rest[0])}
    elif name == "exit" and len(rest) <= 1 and (not rest or rest[0].isdecimal()):
        step |= {"op": "exit", "status": int(rest[0]) & 255 if rest else None}
    elif name == "trap" and rest[:1] == [""]:
        step |= {"op": "ignore", "signals": rest[1:]}
    elif name == "printf" and len(rest) == 1:
        step |= {"op": "printf", "bytes": _formatted(rest[0]).decode("latin-1")}
    elif name == "head" and len(rest) == 2 and rest[0] in ("-n", "-c") and rest[1].isdecimal():
        step |= {"op": "head", "of": rest[0], "left": int(rest[1])}
    elif name == "seq" and len(rest) == 1 and rest[0].isdecimal():
        step |= {"op": "seq", "to": int(rest[0]), "at": 0}
    elif name == "printenv" and len(rest) == 1:
        step |= {"op": "printenv", "name": rest[0]}
    elif name in _PLAIN:
        step |= {"op": name}
    return step


def _formatted(text: str) -> bytes:
    """``printf``'s escapes: ``\\n``, ``\\\\`` and bytes of one to three octal digits."""

    def byte(match: re.Match[bytes]) -> bytes:
        named = {b"n": b"\n", b"t": b"\t", b"\\": b"\\"}
        return named.get(match[1]) or bytes((int(match[1], 8) & 255,))

    return re.sub(rb"\\([0-7]{1,3}|[nt\\])", byte, _bytes(text))


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


async def run(program: Program, around: Surroundings) -> int:
    """Run the program from where it stands; returns its exit status."""
    while program["next"] < len(program["steps"]):
        await around.clock.running()
        step = program["steps"][program["next"]]
        wanted = {"ok": program["status"] == 0, "failed": program["status"] != 0}
        if not wanted.get(step["if"], True):
            program["next"] += 1
        elif step["op"] == "exit":
            return int(program["status"] if step["status"] is None else step["status"])
        elif step["op"] == "shell":
            await _read_shell_line(program, around)
        else:
            program["status"] = await _perform(step, program, around)
            program["next"] += 1
    return int(program["status"])


async def _perform(step: dict[str, Any], program: Program, around: Surroundings) -> int:
    match step["op"]:
        case "echo":
            around.write(step["to"], _bytes(step["text"]))
        case "printf":
            around.write(1, step["bytes"].encode("latin-1"))
        case "false":
            return 1
        case "sleep":
            if program["wake_at"] is None:
                program["wake_at"] = around.clock.now() + step["seconds"]
            await around.clock.sleep_until(program["wake_at"])
            program["wake_at"] = None
        case "hostname":
            around.write(1, _bytes(f"{around.hostname}\n"))
        case "pwd":
            around.write(1, _bytes(f"{around.working_dir}\n"))
        case "whoami":
            around.write(1, _bytes(f"{around.user}\n"))
        case "ignore":
            around.ignore(step["signals"])
        case "env":
            around.write(1, _bytes("".join(f"{pair}\n" for pair in around.environment)))
        case "printenv":
            values = dict(pair.partition("=")[::2] for pair in around.environment)
            if step["name"] not in values:
                return 1
            around.write(1, _bytes(f"{values[step['name']]}\n"))
        case "cat":
            while around.stdin is not None and (data := await around.stdin.get()):
                await around.clock.running()
                around.write(1, data)
                await around.room()
        case "seq":
            while step["at"] < step["to"]:
                step["at"] += 1
                around.write(1, b"%d\n" % step["at"])
                await around.room()
        case "head":
            await _pass_head(step, around)
        case "yes":
            while True:
                await around.clock.running()
                around.write(1, b"y\n" * (_YES_BYTES // 2))
                await around.room()
                await asyncio.sleep(0)
        case "forever":
            await asyncio.Event().wait()
    return 0


async def _pass_head(step: dict[str, Any], around: Surroundings) -> None:
    """So many lines or bytes of the input; what is left of it is left to others."""
    while step["left"] and around.stdin is not None and (data := await around.stdin.get()):
        await around.clock.running()
        for piece in data.splitlines(keepends=True):
            if step["of"] == "-c":
                piece = piece[: step["left"]]
                step["left"] -= len(piece)
            elif step["left"]:
                step["left"] -= piece.endswith(b"\n")
            else:
                break
            around.write(1, piece)


async def _read_shell_line(program: Program, around: Surroundings) -> None:
    """Take one line from stdin and put its steps before the shell's own; at its end, end."""
    if around.tty:
        around.write(1, b"# ")
    line = b""
    while around.stdin is not None and not line.endswith((b"\n", b"\r")):
        data = await around.stdin.get()
        if not data:
            break
        if around.tty:
            around.write(1, data.replace(b"\r", b"\n"))
        line += data
    await around.clock.running()
    if not line:
        program["next"] += 1
        return
    at = program["next"]
    program["steps"][at:at] = _compile_script(line.decode(errors="replace").replace("\r", "\n"))
