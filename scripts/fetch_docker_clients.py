#!/usr/bin/env python3
"""Put docker's plugins compose and buildx into a folder, unless they are there already.

    scripts/fetch_docker_clients.py FOLDER

They come from Debian packages of pinned versions, which are taken only if their SHA-256 is the
pinned one: forky's, or trixie's where forky has moved on meanwhile. ``docker`` finds them in
``cli-plugins`` of the folder that ``DOCKER_CONFIG`` names. Nothing is installed. Standard library
and dpkg-deb only. Safe to run twice or to interrupt: a file appears when it is whole.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path

MIRROR = "http://deb.debian.org/debian"
TIMEOUT_S = 120.0
_INSIDE = "usr/libexec/docker/cli-plugins"
_ATTEMPTS = 3


@dataclass(frozen=True)
class Package:
    path: str
    sha256: str

    @property
    def name(self) -> str:
        return self.path.rpartition("/")[2]


PLUGINS = {
    "docker-compose": (
        Package(
            "pool/main/d/docker-compose/docker-compose_2.40.3-3_amd64.deb",
            "e7603d5e6df0f8404f7b03da478022b87d7b50644cffe68884b071e5cfc17fd3",
        ),
        Package(
            "pool/main/d/docker-compose/docker-compose_2.26.1-4_amd64.deb",
            "47681197cb2b1ab88206b42a1a92fc75f50d9530a6322d03494a473eed0408ea",
        ),
    ),
    "docker-buildx": (
        Package(
            "pool/main/d/docker-buildx/docker-buildx_0.29.1+ds1-4_amd64.deb",
            "6103bcc4eab8169ae679f806d3949ffc99a1545a61fddea6124da826f115f2bf",
        ),
        Package(
            "pool/main/d/docker-buildx/docker-buildx_0.13.1+ds1-3_amd64.deb",
            "fcf8c48204d1603c8f209451d7827eb91bf30759578baf7704e9e1a87e5f1d7f",
        ),
    ),
}


class FetchFailed(Exception):
    """The text says what went wrong, and what to do."""


class NotThere(FetchFailed):
    """The mirror does not have this version any more."""


def is_there(folder: Path) -> bool:
    """Each beside the name of the package that it is from."""
    return all(
        os.access(folder / "cli-plugins" / name, os.X_OK)
        and _noted(folder, name) in [package.name for package in packages]
        for name, packages in PLUGINS.items()
    )


def fetch(folder: Path, mirror: str = MIRROR) -> None:
    """Fill ``folder``; ``FetchFailed`` if a package cannot be had or is not the pinned one."""
    (folder / "cli-plugins").mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".fetch-") as temporary:
        for name, packages in PLUGINS.items():
            _fetch_one(folder, name, packages, mirror, Path(temporary))


def _fetch_one(
    folder: Path, name: str, packages: tuple[Package, ...], mirror: str, temporary: Path
) -> None:
    package, content = _first_of(packages, mirror)
    archive, unpacked = temporary / package.name, temporary / name
    archive.write_bytes(content)
    done = subprocess.run(
        ["dpkg-deb", "--extract", str(archive), str(unpacked)],
        check=False,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
    )
    if done.returncode != 0:
        raise FetchFailed(f"{package.name} cannot be unpacked: {done.stderr.strip()}")
    with (unpacked / _INSIDE / name).open("rb") as file:
        os.fsync(file.fileno())
    _note(folder, name).unlink(missing_ok=True)
    (unpacked / _INSIDE / name).replace(folder / "cli-plugins" / name)
    _note(folder, name).write_text(f"{package.name}\n")


def _first_of(packages: tuple[Package, ...], mirror: str) -> tuple[Package, bytes]:
    for package in packages[:-1]:
        try:
            return package, _downloaded(package, mirror)
        except NotThere:
            continue
    return packages[-1], _downloaded(packages[-1], mirror)


def _downloaded(package: Package, mirror: str) -> bytes:
    url = f"{mirror}/{package.path}"
    for left in reversed(range(_ATTEMPTS)):
        try:
            with urllib.request.urlopen(url, timeout=TIMEOUT_S) as answer:
                content: bytes = answer.read()
            break
        except urllib.error.HTTPError as error:
            if error.code in (404, 410):
                raise NotThere(
                    f"{url} is no more: pin the present version in scripts/fetch_docker_clients.py"
                ) from error
            if not left:
                raise FetchFailed(f"{url}: {error}; try again") from error
        except OSError as error:
            if not left:
                raise FetchFailed(f"{url} did not arrive: {error}; try again") from error
    if hashlib.sha256(content).hexdigest() != package.sha256:
        raise FetchFailed(f"{url} is not the pinned package: not installed")
    return content


def _note(folder: Path, name: str) -> Path:
    return folder / f"{name}.package"


def _noted(folder: Path, name: str) -> str:
    try:
        return _note(folder, name).read_text().strip()
    except FileNotFoundError:
        return ""


def main() -> int:
    parser = argparse.ArgumentParser(description="Fetch docker's plugins compose and buildx.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--mirror", default=MIRROR, help=f"of Debian (default: {MIRROR})")
    given = parser.parse_args()
    folder: Path = given.folder
    if is_there(folder):
        print(f"compose and buildx are in {folder} already")
        return 0
    try:
        fetch(folder, given.mirror)
    except (FetchFailed, OSError, subprocess.TimeoutExpired) as error:
        print(f"fetch_docker_clients: {error}", file=sys.stderr)
        return 1
    print(f"compose and buildx are in {folder}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
