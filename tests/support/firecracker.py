"""The Firecracker binary for tests: the installed one, or the pinned one, fetched once."""

from __future__ import annotations

import asyncio
import os
import shutil
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / ".state" / "firecracker"
FETCH_TIMEOUT_S = 300


def kvm_opens(device: str = "/dev/kvm") -> bool:
    try:
        os.close(os.open(device, os.O_RDWR | os.O_CLOEXEC))
    except OSError:
        return False
    return True


async def firecracker_binary() -> Path:
    """Its path. That it cannot be had is an error and not a reason to skip."""
    installed = shutil.which("firecracker")
    if installed is not None:
        return Path(installed)
    fetch = await asyncio.create_subprocess_exec(
        sys.executable,
        str(ROOT / "scripts" / "fetch_firecracker.py"),
        str(FOLDER),
        stdout=asyncio.subprocess.DEVNULL,
    )
    try:
        async with asyncio.timeout(FETCH_TIMEOUT_S):
            status = await fetch.wait()
    finally:
        if fetch.returncode is None:
            fetch.kill()
            await fetch.wait()
    if status != 0:
        raise RuntimeError("Firecracker could not be fetched: see above")
    return FOLDER / "firecracker"
