"""The root file system's tree, from Debian packages.

mmdebstrap installs the packages. The kernel is only unpacked, not installed: as a package it
would bring systemd, udev and an initrd of its own, none of which we want.
"""

from __future__ import annotations

import asyncio
import os
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path

from warmboot.model.errors import HostError, NotSupported
from warmboot.system.programs import run_program

SUITE = "trixie"
KERNEL_PACKAGE = "linux-image-cloud-amd64"
PACKAGES = (
    "busybox-static",
    "ca-certificates",
    "containerd",
    "criu",
    "crun",
    "docker.io",
    "iproute2",
    "iptables",
    "kmod",
    "procps",
    "python3-minimal",
    "socat",
)
_KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
_KERNEL_FOLDER = ".kernel"

_KERNEL_HOOK = f"""\
set -e
export APT_CONFIG="$MMDEBSTRAP_APT_CONFIG"
mkdir "$1/{_KERNEL_FOLDER}"
cd "$1/{_KERNEL_FOLDER}"
package=$(apt-cache depends --important {KERNEL_PACKAGE} |
    sed -n 's/.*Depends: \\(linux-image-[0-9][^ ]*\\).*/\\1/p' | head -n 1)
apt-get -o APT::Sandbox::User=root download "$package"
dpkg-deb -x linux-image-*.deb tree
"""

# What mmdebstrap says, in order, and how far along it then is.
_STAGES = (
    ("running apt-get update", 0.02),
    ("downloading packages", 0.1),
    ("extracting archives", 0.3),
    ("installing essential packages", 0.4),
    ("installing remaining packages", 0.5),
    ("running special hook", 0.85),
    ("cleaning package lists", 0.95),
)

_SLIM = (
    "boot",
    "etc/apt",
    "etc/cron.daily",
    "etc/init.d",
    "etc/systemd",
    "usr/bin/containerd-shim",
    "usr/bin/containerd-shim-runc-v1",
    "usr/bin/ctr",
    "usr/bin/localedef",
    "usr/bin/openssl",
    "usr/bin/perl",
    "usr/bin/perl5*",
    "usr/bin/sqv",
    "usr/games",
    "usr/include",
    "usr/lib/apt",
    "usr/lib/locale",
    "usr/lib/systemd",
    "usr/lib/udev",
    "usr/lib/x86_64-linux-gnu/libapt-*",
    "usr/lib/x86_64-linux-gnu/perl*",
    "usr/lib/x86_64-linux-gnu/gconv",
    "usr/sbin/locale-gen",
    "usr/share/bash-completion",
    "usr/share/bug",
    "usr/share/doc",
    "usr/share/info",
    "usr/share/keyrings",
    "usr/share/lintian",
    "usr/share/locale",
    "usr/share/man",
    "usr/share/perl*",
    "usr/share/zoneinfo",
    "var/cache",
    "var/lib",
    "var/log",
)


async def build_tree(root: Path, progress: Callable[[str, float], None]) -> Path:
    """Fill ``root`` and return the unpacked kernel package's folder inside it.

    ``progress`` gets what is being done and how much of it (0 to 1) is behind us. Needs root.
    """
    if os.geteuid() != 0:
        raise NotSupported(
            "building a runtime image needs root",
            details="it installs packages into a folder with chroot and keeps their owners",
            resolution="run the command with sudo",
        )
    sources = root.parent / "sources.list"
    sources.write_text(await _sources())
    hook = root.parent / "kernel-hook"
    hook.write_text(_KERNEL_HOOK)

    def on_line(line: str) -> None:
        for words, done in _STAGES:
            if words in line:
                progress(f"Debian packages: {words}", done)

    await run_program(
        "mmdebstrap",
        "--mode=root",
        "--variant=minbase",
        "--format=directory",
        "--include=" + ",".join(PACKAGES),
        '--aptopt=APT::Install-Recommends "false"',
        *(f"--dpkgopt=path-exclude=/usr/share/{name}/*" for name in ("doc", "man", "locale")),
        f'--customize-hook=sh {shlex.quote(str(hook))} "$1"',
        SUITE,
        root,
        *([sources] if sources.stat().st_size else []),
        on_line=on_line,
    )
    return root / _KERNEL_FOLDER / "tree"


async def package_versions(root: Path) -> dict[str, str]:
    """The versions of the packages that matter, for the manifest's labels."""
    listing = await run_program(
        "dpkg-query", f"--admindir={root}/var/lib/dpkg", "-W", "-f", "${Package} ${Version}\n"
    )
    versions = dict(line.split(" ", 1) for line in listing.output.splitlines() if " " in line)
    return {name: versions[name] for name in PACKAGES if name in versions}


async def _sources() -> str:
    """apt source lines for the suite, on the mirrors that this host itself uses.

    Empty when the host has no Debian mirror configured: mmdebstrap then takes its default.
    """
    listing = await run_program(
        "apt-get", "indextargets", "--format", "$(LABEL)|$(COMPONENT)|$(REPO_URI)",
        "Created-By: Packages",
    )  # fmt: skip
    mirrors: dict[str, str] = {}
    for line in listing.output.splitlines():
        label, _, rest = line.partition("|")
        component, _, uri = rest.partition("|")
        if component == "main":
            mirrors.setdefault(label, uri)
    if "Debian" not in mirrors:
        return ""
    option = f"[signed-by={_KEYRING}] " if _KEYRING.exists() else ""
    lines = [
        f"deb {option}{mirrors['Debian']} {SUITE} main",
        f"deb {option}{mirrors['Debian']} {SUITE}-updates main",
    ]
    if "Debian-Security" in mirrors:
        lines.append(f"deb {option}{mirrors['Debian-Security']} {SUITE}-security main")
    return "\n".join(lines) + "\n"


async def slim(root: Path) -> None:
    """Remove what a running VM never needs. Package names and versions go to the labels."""
    await asyncio.to_thread(_slim, root)


def _slim(root: Path) -> None:
    for pattern in _SLIM:
        for path in root.glob(pattern):
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()
    for path in list(root.rglob("__pycache__")):
        shutil.rmtree(path)
    for folder in ("boot", "var/cache", "var/lib", "var/log"):
        (root / folder).mkdir(mode=0o755)
    if not (root / "usr/sbin/dockerd").exists():
        raise HostError("the package docker.io brought no dockerd", resolution="report this")
