"""Small real images: busybox and a shell script, or the host's Python with its libraries.

counter    prints a secret that exists in its memory only, and a growing number
client     holds one HTTP connection and asks a server for a number over and over
python     runs a Python script with the standard library (and httpx, for ``warmboot.worker``)
"""

from __future__ import annotations

import subprocess
import sys
import sysconfig
from pathlib import Path

from warmboot.docker.tiny_image import busybox_image, image_archive, static_busybox

COUNTER = (
    "s=$(head -c 8 /dev/urandom | od -An -tx1 | head -c 24); i=0; "
    'while true; do i=$((i+1)); echo "$s $i"; sleep 0.1; done'
)


def busybox() -> Path:
    found = static_busybox()
    assert found is not None, "apt-get install busybox-static"
    return found


def counter_image(name: str = "warmboot-test/counter:1") -> bytes:
    """Prints ``<secret> <n>`` ten times a second; the secret was never written anywhere else."""
    return busybox_image(name, busybox(), ["sh", "-c", COUNTER])


def shell_image(name: str, script: str) -> bytes:
    """busybox running ``script``."""
    return busybox_image(name, busybox(), ["sh", "-c", script])


def http_image(name: str = "warmboot-test/http:1", port: int = 8080) -> bytes:
    """busybox httpd on ``port`` of the host, serving its own root folder."""
    return busybox_image(name, busybox(), ["httpd", "-f", "-p", str(port), "-h", "/"])


def client_image(port: int, name: str = "warmboot-test/client:1") -> bytes:
    """Holds one connection to ``127.0.0.1:port``: a line a fifth of a second, prints the answers.

    The server answers each line with the number of lines it has had on this very connection.
    """
    script = f"while true; do echo tick; sleep 0.2; done | nc 127.0.0.1 {port}"
    return shell_image(name, script)


def python_image(name: str = "warmboot-test/python:1", extra: tuple[Path, ...] = ()) -> bytes:
    """The interpreter that runs the tests with its standard library, libraries and ``extra``.

    ``extra`` are packages (folders) or modules, put where Python finds them.
    """
    interpreter = Path(sys.executable).resolve()
    files = {"usr/bin/python3": interpreter.read_bytes()}
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    standard = Path(sysconfig.get_path("stdlib"))
    skipped = {
        "__pycache__",
        "test",
        "tests",
        "idlelib",
        "tkinter",
        "turtledemo",
        "ensurepip",
        "site-packages",
        "dist-packages",
        "lib2to3",
        "pydoc_data",
    }
    for path in standard.rglob("*"):
        inside = path.relative_to(standard)
        if path.is_file() and not skipped & set(inside.parts) and path.suffix != ".a":
            files[f"usr/lib/{version}/{inside}"] = path.read_bytes()
    for root in extra:
        members = root.rglob("*") if root.is_dir() else [root]
        for path in members:
            if path.is_file() and "__pycache__" not in path.parts:
                inside = path.relative_to(root.parent)
                files[f"usr/lib/{version}/{inside}"] = path.read_bytes()
    binaries = [interpreter, *standard.glob("lib-dynload/*.so")]
    for library in libraries_of(binaries):
        files[str(library).lstrip("/")] = library.read_bytes()
    environment = [
        "PYTHONHOME=/usr",
        "PYTHONUNBUFFERED=1",
        "PYTHONDONTWRITEBYTECODE=1",
        "LD_LIBRARY_PATH=" + ":".join(sorted({str(p.parent) for p in libraries_of(binaries)})),
    ]
    files["bin/busybox"] = busybox().read_bytes()
    links = {"bin/sh": "busybox", "bin/sleep": "busybox"}
    return image_archive(name, files, links, ["/usr/bin/python3"], environment)


def libraries_of(binaries: list[Path]) -> set[Path]:
    found: set[Path] = set()
    for binary in binaries:
        listing = subprocess.run(
            ["ldd", str(binary)], capture_output=True, text=True, check=False, timeout=60
        ).stdout
        for line in listing.splitlines():
            words = line.replace("=>", " ").split()
            paths = [Path(word) for word in words if word.startswith("/")]
            found.update(path for path in paths if path.is_file())
    return found
