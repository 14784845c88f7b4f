#!/usr/bin/env python3
"""Run a command where the Docker of another Debian release is installed.

    scripts/with_docker_of.py forky .venv/bin/python -m pytest tests/workers/test_worker_runtime.py

In a mount namespace of its own, the release's dockerd, containerd and runc lie over this machine's,
with the libraries that they need; in a network namespace of its own, its bridges are in nobody's
way. The programs are downloaded once, into the state folder. Needs root and mmdebstrap.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
RELEASES = ("bookworm", "trixie", "forky")
MIRROR = "http://deb.debian.org/debian"
LIBRARIES = "usr/lib/x86_64-linux-gnu"
PROGRAMS = (
    *("dockerd", "docker-proxy", "containerd", "containerd-shim-runc-v2", "ctr", "runc"),
    "xtables-nft-multi",
)
FOLDERS = ("usr/bin", "usr/sbin")
RUNC_OF = {"forky": "trixie"}
"""forky's runc 1.3.6+ds1-1 starts no container at all: it takes its child's first byte for JSON."""

DOWNLOAD_TIMEOUT_S = 600.0

INSIDE = """
set -eu
root=$1; libraries=$2; shift 2
ip link set lo up
mount -t overlay -o "ro,lowerdir=$root/$libraries:/$libraries" overlay "/$libraries"
while [ "$1" != -- ]; do
    mount --bind "$1" "$2"
    shift 2
done
shift
exec "$@"
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("release", choices=RELEASES, help="of Debian")
    parser.add_argument("command", nargs=argparse.REMAINDER, help="with its arguments")
    given = parser.parse_args()
    if not given.command:
        parser.error("no command is given")
    root = unpacked(given.release)
    over = [str(path) for pair in programs(root) for path in pair]
    os.environ["WARMBOOT_OWN_NETWORK"] = "1"
    words = ["unshare", "--mount", "--net", "sh", "-c", INSIDE, "sh", str(root), LIBRARIES, *over]
    os.execvp(words[0], [*words, "--", *given.command])


def unpacked(release: str) -> Path:
    """The release's docker.io and all that it depends on; nothing of it is installed."""
    state = Path(os.environ.get("WARMBOOT_STATE", ROOT / ".state"))
    root = state / "docker" / release
    if root.is_dir():
        return root
    print(f"downloading the Docker of {release}", file=sys.stderr)
    new = root.with_name(f"{release}.new")
    shutil.rmtree(new, ignore_errors=True)
    new.parent.mkdir(parents=True, exist_ok=True)
    make = ["mmdebstrap", "--quiet", "--mode=root", "--variant=extract", "--include=docker.io"]
    # Of a release in the making the mirror's list may be older than it says it is good for.
    make += ["--aptopt=Acquire::Check-Valid-Until false"]
    command = [*make, release, str(new), MIRROR]
    subprocess.run(command, check=True, timeout=DOWNLOAD_TIMEOUT_S)
    new.rename(root)
    return root


def programs(root: Path) -> Iterator[tuple[Path, Path]]:
    """The release's programs, and what they are laid over."""
    for name in PROGRAMS:
        of = unpacked(RUNC_OF.get(root.name, root.name)) if name == "runc" else root
        theirs = [path for folder in FOLDERS if (path := of / folder / name).is_file()]
        here = shutil.which(name)
        if not theirs or here is None:
            sys.exit(f"{name} is not in both; install docker.io")
        yield theirs[0].resolve(), Path(here).resolve()


if __name__ == "__main__":
    main()
