"""The Firecracker program: its own version, and which snapshots it can load."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from warmboot.model.errors import HypervisorError, RestoreFailed
from warmboot.system.programs import run_program

ANSWER_TIMEOUT_S = 10.0


@dataclass(frozen=True, slots=True)
class Versions:
    """``program`` like ``1.12.1``; ``snapshot`` is the newest snapshot format it knows."""

    program: str
    snapshot: tuple[int, int, int]


async def versions(binary: Path) -> Versions:
    """Ask the program; ``HypervisorError`` if it is not Firecracker."""
    program = await _ask(binary, "--version", pattern=r"Firecracker v([\w.+-]+)")
    snapshot = await _ask(binary, "--snapshot-version", pattern=r"v(\d+\.\d+\.\d+)")
    return Versions(program, _numbers(snapshot))


async def check_snapshot(binary: Path, state: Path, supported: tuple[int, int, int]) -> None:
    """``RestoreFailed`` if the state file is damaged or of a format that is not ``supported``.

    Firecracker loads formats of its own major version, up to its own minor version.
    """
    try:
        answer = await _ask(binary, "--describe-snapshot", str(state), pattern=r"v(\d+\.\d+\.\d+)")
    except HypervisorError as error:
        raise RestoreFailed(
            f"{state} is not a snapshot that Firecracker can read",
            details=error.details,
            resolution="rebuild the snapshot",
        ) from error
    found = _numbers(answer)
    if found[0] != supported[0] or found[1] > supported[1]:
        here = ".".join(map(str, supported))
        raise RestoreFailed(
            "Firecracker snapshot version mismatch",
            details=f"{state} has format {answer}, this Firecracker loads up to {here}",
            resolution="rebuild the snapshot with this Firecracker",
        )


def _numbers(version: str) -> tuple[int, int, int]:
    major, minor, patch = (int(part) for part in version.split("."))
    return major, minor, patch


async def _ask(binary: Path, *arguments: str, pattern: str) -> str:
    said = await run_program(
        binary, *arguments, check=False, timeout_s=ANSWER_TIMEOUT_S, failure=HypervisorError
    )
    text = said.output
    found = re.search(rf"^{pattern}\s*$", text, re.MULTILINE)
    if not said.ok or found is None:
        raise HypervisorError(
            f"{binary} {arguments[0]} prints no version",
            details=text.strip()[-500:],
            resolution="install the official Firecracker binary",
        )
    return found[1]
