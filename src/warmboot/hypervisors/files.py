"""What all drivers look for in files: a snapshot's sizes, the end of a log, this machine's CPU."""

from __future__ import annotations

from pathlib import Path

from warmboot.model.errors import RestoreFailed

_CPUINFO = Path("/proc/cpuinfo")


def check_size(path: Path, expected_bytes: int | None) -> None:
    """``RestoreFailed`` if it cannot be read, is empty, or (not ``None``) of another size.

    A VMM maps a shorter memory file as well, and dies of SIGBUS when the guest gets there. What the
    file contains is checked against the manifest's sums by its owner.
    """
    try:
        size = path.stat().st_size
    except OSError as error:
        raise RestoreFailed(
            f"{path} cannot be read", details=str(error), resolution="rebuild the snapshot"
        ) from error
    if size == 0 or (expected_bytes is not None and size != expected_bytes):
        raise RestoreFailed(
            f"{path} is truncated or of another shape",
            details=f"{size} bytes instead of {expected_bytes or 'more than none'}",
            resolution="rebuild the snapshot",
        )


def tail(path: Path, size: int = 2000) -> str:
    """The last ``size`` bytes of a log, as text; nothing if it is not there."""
    try:
        return path.read_bytes()[-size:].decode(errors="replace").strip()
    except FileNotFoundError:
        return ""


def cpu_flags(cpuinfo: Path = _CPUINFO) -> frozenset[str]:
    return frozenset(_cpu_field(cpuinfo, "flags").split())


def cpu_model(cpuinfo: Path = _CPUINFO) -> str:
    return _cpu_field(cpuinfo, "model name") or "unknown"


def _cpu_field(cpuinfo: Path, name: str) -> str:
    for line in cpuinfo.read_text().splitlines():
        key, _, value = line.partition(":")
        if key.strip() == name:
            return value.strip()
    return ""
