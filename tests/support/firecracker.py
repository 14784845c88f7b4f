"""For tests of real VMs: the Firecracker binary (fetched once if need be), and a network."""

from __future__ import annotations

import asyncio
import os
import secrets
import shutil
import sys
from pathlib import Path

from warmboot.model.vm import Nic
from warmboot.system.on_failure import on_failure

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


class Namespace:
    """A network namespace with a TAP, for as long as a test needs it."""

    def __init__(self, tap: str = "tap0") -> None:
        self._name = f"wb-test-{secrets.token_hex(4)}"
        self._tap = tap

    async def __aenter__(self) -> Nic:
        await _run("ip", "netns", "add", self._name)
        async with on_failure(self.__aexit__):
            inside = ("ip", "-n", self._name)
            await _run(*inside, "tuntap", "add", self._tap, "mode", "tap")
            await _run(*inside, "address", "add", "198.18.0.1/30", "dev", self._tap)
            await _run(*inside, "link", "set", self._tap, "up")
        path = Path("/run/netns") / self._name
        return Nic(path, self._tap, "06:00:00:00:00:01", "198.18.0.2")

    async def __aexit__(self, *_: object) -> None:
        await _run("ip", "netns", "delete", self._name)


async def _run(*command: str) -> None:
    process = await asyncio.create_subprocess_exec(*command)
    assert await process.wait() == 0, command
