"""Run a program to its end: bounded in time, and gone when the caller is."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from warmboot.model.errors import HostError


@dataclass(frozen=True, slots=True)
class Outcome:
    """``output`` is standard output and error, in the order they came."""

    code: int
    output: str

    @property
    def ok(self) -> bool:
        return self.code == 0


async def run(
    argv: Sequence[str], *, timeout_s: float = 60.0, environment: Mapping[str, str] | None = None
) -> Outcome:
    """Run ``argv``; ``HostError`` when it is not there or takes longer than ``timeout_s``."""
    try:
        process = await asyncio.create_subprocess_exec(
            *argv,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            env={**os.environ, **(environment or {})},
        )
    except OSError as error:
        raise HostError(f"{argv[0]} cannot be run", details=str(error)) from error
    try:
        async with asyncio.timeout(timeout_s):
            output, _ = await process.communicate()
    except TimeoutError as error:
        raise HostError(f"{argv[0]} did not end within {timeout_s:.0f} s") from error
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    return Outcome(process.returncode or 0, output.decode(errors="replace"))
