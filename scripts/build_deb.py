"""Build warmboot's Debian package, with the Python packages that it needs in it.

    scripts/build_deb.py bookworm --output dist

The package is for one release, by whose Python it runs. What is in it: a virtual environment at
/usr/lib/warmboot with the versions of requirements.lock, the program, a systemd unit, the group
and the folders that it needs, shell completions and a man page.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from scripts import manual  # noqa: E402
from warmboot import __version__  # noqa: E402

FILES = ROOT / "deploy" / "debian"
HOME = "usr/lib/warmboot"


@dataclass(frozen=True)
class Release:
    """A release of Debian: its Python, and the newest glibc tag that its wheels may have."""

    number: int
    python: str
    glibc_minor: int


RELEASES = {"bookworm": Release(12, "3.11", 36), "trixie": Release(13, "3.13", 41)}

DEPENDS = (
    "busybox-static | busybox",
    "ca-certificates",
    "dnsmasq-base",
    "e2fsprogs",
    "iproute2",
    "iptables",
    "mmdebstrap",
    "nftables",
    "openssl",
    "qemu-system-x86 (>= 1:9)",
    "qemu-utils (>= 1:9)",
    "util-linux",
    "xz-utils",
    "zstd",
)
PROGRAM = f"""\
#!/{HOME}/bin/python -I
from warmboot.cli.entry import main

main()
"""
COMPLETIONS = {
    "bash": "usr/share/bash-completion/completions/warmboot",
    "zsh": "usr/share/zsh/vendor-completions/_warmboot",
    "fish": "usr/share/fish/vendor_completions.d/warmboot.fish",
}


def say(text: str) -> None:
    print(f"==> {text}", flush=True)


def run(*argv: str) -> None:
    subprocess.run(argv, check=True, cwd=ROOT)


def write(path: Path, text: str, mode: int = 0o644) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(mode)


def copy(name: str, path: Path, mode: int = 0o644) -> None:
    write(path, (FILES / name).read_text(), mode)


def virtual_environment(home: Path, release: Release, work: Path) -> None:
    """As ``python -m venv`` makes it, for a Python that need not be this machine's."""
    pip = (sys.executable, "-m", "pip", "-qq", "--disable-pip-version-check")
    run(*pip, "wheel", "--no-deps", "--wheel-dir", str(work), str(ROOT))
    (wheel,) = work.glob("warmboot-*.whl")
    tags = [f"manylinux_2_{minor}_x86_64" for minor in range(release.glibc_minor, 4, -1)]
    platforms = [word for tag in (*tags, "manylinux2014_x86_64") for word in ("--platform", tag)]
    packages = home / "lib" / f"python{release.python}" / "site-packages"
    run(
        *(*pip, "install", "--target", str(packages), "--no-compile", "--only-binary=:all:"),
        *("--implementation", "cp", "--python-version", release.python, *platforms),
        *("--constraint", str(ROOT / "requirements.lock"), f"{wheel}[server]"),
    )
    shutil.rmtree(packages / "bin", ignore_errors=True)
    write(
        home / "pyvenv.cfg",
        f"home = /usr/bin\ninclude-system-site-packages = false\nversion = {release.python}\n",
    )
    (home / "bin").mkdir()
    (home / "bin" / "python").symlink_to(f"/usr/bin/python{release.python}")


def fill(tree: Path, release: Release, work: Path) -> None:
    """What lies on the machine when the package is installed."""
    say("collecting the Python packages")
    virtual_environment(tree / HOME, release, work)
    write(tree / "usr/bin/warmboot", PROGRAM, 0o755)
    copy("warmboot.service", tree / "usr/lib/systemd/system/warmboot.service")
    copy("warmboot.sysusers", tree / "usr/lib/sysusers.d/warmboot.conf")
    copy("warmboot.tmpfiles", tree / "usr/lib/tmpfiles.d/warmboot.conf")
    copy("warmboot.default", tree / "etc/default/warmboot")
    say("writing the man page and the shell completions")
    for shell, path in COMPLETIONS.items():
        write(tree / path, manual.completion(shell))
    documents = tree / "usr/share/doc/warmboot"
    write(documents / "copyright", (ROOT / "LICENSE").read_text())
    compressed(documents / "changelog.gz", (ROOT / "CHANGELOG.md").read_text())
    compressed(tree / "usr/share/man/man1/warmboot.1.gz", manual.man_page(manual.day()))


def compressed(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(text.encode(), mtime=0))


def describe(tree: Path, release: Release) -> str:
    """Write the package's control files; its version."""
    version = f"{__version__}-1~deb{release.number}"
    files = sorted(path for path in tree.rglob("*") if path.is_file() and not path.is_symlink())
    size_kib = sum(path.stat().st_size for path in files) // 1024
    sums = [f"{hashlib.md5(p.read_bytes()).hexdigest()}  {p.relative_to(tree)}\n" for p in files]
    python = f"python{release.python}"
    control = {
        "Package": "warmboot",
        "Version": version,
        "Architecture": "amd64",
        "Maintainer": "The warmboot maintainers <maintainers@warmboot.invalid>",
        "Installed-Size": str(size_kib),
        "Depends": ", ".join((python, *DEPENDS)),
        "Recommends": "docker.io",
        "Section": "admin",
        "Priority": "optional",
        "Description": "containers in microVMs that start warm\n"
        " A container gets a microVM of its own, restored from a snapshot in which Docker already\n"
        " runs; workers on the host's Docker are paused and resumed with their memory.",
    }
    lines = "".join(f"{name}: {value}\n" for name, value in control.items())
    write(tree / "DEBIAN/control", lines)
    write(tree / "DEBIAN/md5sums", "".join(sums))
    write(tree / "DEBIAN/conffiles", "/etc/default/warmboot\n")
    for name in ("postinst", "prerm", "postrm"):
        copy(name, tree / "DEBIAN" / name, 0o755)
    return version


def build(release_name: str, output: Path) -> Path:
    """The package, built into the folder ``output``."""
    release = RELEASES[release_name]
    output.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="warmboot-deb-") as folder:
        work = Path(folder)
        tree = work / "tree"
        tree.mkdir(mode=0o755)
        fill(tree, release, work)
        version = describe(tree, release)
        package = output / f"warmboot_{version}_amd64.deb"
        say("packing")
        run("dpkg-deb", "--root-owner-group", "-Zzstd", "--build", str(tree), str(package))
    return package


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("release", choices=sorted(RELEASES), help="of Debian")
    parser.add_argument("--output", type=Path, default=ROOT / "dist", help="folder (dist)")
    given = parser.parse_args()
    os.umask(0o022)
    say(f"built {build(given.release, given.output)}")


if __name__ == "__main__":
    main()
