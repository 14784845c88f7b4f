"""The CRIU that is installed: where, which version, and whether it works on this kernel."""

from __future__ import annotations

import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

from warmboot.model.checkpoint import Obstacle, criu_obstacles
from warmboot.model.errors import HostError
from warmboot.system.programs import Outcome, run_program

SEARCH_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
"""Where an engine that systemd started finds programs."""

CHECK_TIMEOUT_S = 60.0

NEEDED_FEATURES = {
    "seccomp_filters": "Docker gives every container a seccomp filter, which must be dumped",
    "tcp_half_closed": "a worker's TCP connections, closing ones included, must be dumped",
    "cgroupns": "with cgroup version 2 every container has a cgroup namespace",
}
NETWORK_LOCK_FEATURE = "network_lock_nftables"


@dataclass(frozen=True, slots=True)
class CriuReport:
    """``missing`` maps what does not work to why that matters; ``output`` is CRIU's own."""

    binary: Path
    version: str
    looks_good: bool
    missing: dict[str, str]
    output: str


def find_criu(search_path: str = SEARCH_PATH) -> Path | None:
    found = shutil.which("criu", path=search_path)
    return Path(found) if found else None


async def criu_version(binary: Path) -> str:
    """Like ``4.2.1``; empty when the program does not say."""
    outcome = await _ask(binary, "--version")
    match = re.search(r"Version:\s*(\S+)", outcome.output)
    return match[1] if outcome.ok and match else ""


async def usable_criu(
    search_path: str = SEARCH_PATH, kernel: str | None = None
) -> tuple[Path | None, tuple[Obstacle, ...]]:
    """The CRIU that the engine would find, and why it does not do on this kernel."""
    binary = find_criu(search_path)
    if binary is None:
        return None, (Obstacle("CRIU is not installed", "`warmboot doctor --fix` installs it"),)
    return binary, criu_obstacles(await criu_version(binary), kernel or os.uname().release)


async def check_criu(binary: Path, cgroup_version: str = "2") -> CriuReport:
    """Run ``criu check`` for all and for each feature that restoring a worker needs."""
    general = await _ask(binary, "check")
    missing: dict[str, str] = {}
    for feature, why in NEEDED_FEATURES.items():
        if feature == "cgroupns" and cgroup_version == "1":
            continue
        if not (await _has(binary, feature)):
            missing[feature] = why
    # While a connection is dumped or restored its packets are held back, by either of these two.
    lock = shutil.which("iptables-restore", path=SEARCH_PATH)
    if lock is None and not await _has(binary, NETWORK_LOCK_FEATURE):
        missing["network lock"] = "without iptables or nftables no TCP connection can be dumped"
    return CriuReport(
        binary=binary,
        version=await criu_version(binary),
        looks_good=general.ok and "Looks good" in general.output,
        missing=missing,
        output=general.output.strip(),
    )


async def _has(binary: Path, feature: str) -> bool:
    return (await _ask(binary, "check", "--feature", feature)).ok


async def _ask(binary: Path, *arguments: str) -> Outcome:
    return await run_program(
        binary, *arguments, check=False, timeout_s=CHECK_TIMEOUT_S, failure=HostError
    )
