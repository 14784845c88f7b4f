"""What a program is started with: its arguments and environment, and what Linux takes of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from warmboot.model.errors import InvalidRequest

MAX_STRING_BYTES = 128 * 1024
"""The kernel's MAX_ARG_STRLEN, with the NUL at the end, for pages of 4 KiB."""

MAX_WORD_BYTES = MAX_STRING_BYTES - 1
"""Of an argument, or of a variable's name and value with the ``=`` between them."""

MAX_BYTES = 2 * 1024 * 1024
"""A quarter of a stack of 8 MiB, which is Docker's, too."""

_POINTER_BYTES = 8


def assignments(environment: Mapping[str, str | None]) -> list[str]:
    """``NAME=value``, as programs have them; ``NAME`` for what is to be taken away (``None``)."""
    return [name if value is None else f"{name}={value}" for name, value in environment.items()]


def check_length(what: str, word: str) -> int:
    """What ``word`` takes, in bytes; ``InvalidRequest`` if it is longer than Linux takes it."""
    size_bytes = len(word.encode(errors="surrogateescape")) + 1
    if size_bytes > MAX_STRING_BYTES:
        raise InvalidRequest(
            f"{what} is too long",
            details=f"it has {size_bytes - 1} bytes, and Linux takes {MAX_WORD_BYTES} at most",
            resolution="pass it in a file, or through standard input",
        )
    return size_bytes


def check_size(arguments: Iterable[str], environment: Iterable[str]) -> None:
    """``InvalidRequest`` for what no Linux can start a program with."""
    used_bytes = 0
    for number, word in enumerate(arguments, 1):
        used_bytes += check_length(f"argument {number}", word) + _POINTER_BYTES
    for number, word in enumerate(environment, 1):
        named = f"environment variable {number} ({word.partition('=')[0][:64]})"
        used_bytes += check_length(named, word) + _POINTER_BYTES
    if used_bytes > MAX_BYTES:
        raise InvalidRequest(
            "the arguments and the environment are too large together",
            details=f"they take {used_bytes} bytes, and Linux gives a program {MAX_BYTES} for them",
            resolution="pass some of it in a file, or through standard input",
        )
