"""A real container image, made of this machine's busybox: a small web server."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import tarfile
from pathlib import Path

NAME = "warmboot-demo/hello:1"
PORT = 8080
GREETING = "Hello from a container in its own microVM."


def write_hello_image(path: Path) -> None:
    """Write the archive, in the form of ``docker save``."""
    found = shutil.which("busybox")
    if found is None:
        raise SystemExit("busybox is not installed: run `make setup`")
    layer = _layer(Path(found).read_bytes())
    config = json.dumps(
        {
            "architecture": "amd64",
            "os": "linux",
            "config": {
                "Cmd": ["httpd", "-f", "-p", str(PORT), "-h", "/www"],
                "ExposedPorts": {f"{PORT}/tcp": {}},
            },
            "rootfs": {"type": "layers", "diff_ids": [f"sha256:{_sha256(layer)}"]},
        }
    ).encode()
    config_name = f"{_sha256(config)}.json"
    manifest = [{"Config": config_name, "RepoTags": [NAME], "Layers": ["layer.tar"]}]
    with tarfile.open(path, "w") as archive:
        _add(archive, config_name, config)
        _add(archive, "layer.tar", layer)
        _add(archive, "manifest.json", json.dumps(manifest).encode())


def _layer(busybox: bytes) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as layer:
        for folder in ("bin", "www", "tmp"):
            member = tarfile.TarInfo(folder)
            member.type, member.mode = tarfile.DIRTYPE, 0o755
            layer.addfile(member)
        _add(layer, "bin/busybox", busybox, mode=0o755)
        for name in ("sh", "cat", "hostname", "date", "sleep", "echo", "httpd", "wget"):
            link = tarfile.TarInfo(f"bin/{name}")
            link.type, link.linkname = tarfile.SYMTYPE, "busybox"
            layer.addfile(link)
        _add(layer, "www/index.html", f"{GREETING}\n".encode())
    return buffer.getvalue()


def _add(archive: tarfile.TarFile, name: str, data: bytes, mode: int = 0o644) -> None:
    member = tarfile.TarInfo(name)
    member.size, member.mode = len(data), mode
    archive.addfile(member, io.BytesIO(data))


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
