"""Small container images without a builder: a ``docker save`` archive written file by file.

Used where a real image is needed and none may be asked for: the verification that a checkpoint
restores, and tests.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import struct
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path

_MACHINES = {"x86_64": "amd64", "aarch64": "arm64"}
BUSYBOX_APPLETS = ("sh", "sleep", "cat", "echo", "od", "head", "dd", "rm", "mkdir", "nc", "httpd")
_ELF_INTERPRETER = 3


def static_busybox(candidates: Sequence[Path] = (Path("/bin/busybox"),)) -> Path | None:
    """A busybox on this host that needs no libraries, so that it can be an image's only file."""
    for path in candidates:
        if path.is_file() and _is_static(path):
            return path
    return None


def _is_static(path: Path) -> bool:
    """Whether a 64-bit ELF file asks for no dynamic loader."""
    with path.open("rb") as file:
        header = file.read(64)
        if len(header) < 64 or header[:5] != b"\x7fELF\x02":
            return False
        (offset,) = struct.unpack_from("<Q", header, 32)
        size, count = struct.unpack_from("<HH", header, 54)
        file.seek(offset)
        table = file.read(size * count)
    kinds = (struct.unpack_from("<I", table, at)[0] for at in range(0, len(table), size))
    return _ELF_INTERPRETER not in kinds


def busybox_image(name: str, busybox: Path, command: Sequence[str]) -> bytes:
    """An image of nothing but busybox and links to it."""
    links = {f"bin/{applet}": "busybox" for applet in BUSYBOX_APPLETS}
    return image_archive(name, {"bin/busybox": busybox.read_bytes()}, links, command)


def image_archive(
    name: str,
    files: Mapping[str, bytes],
    links: Mapping[str, str],
    command: Sequence[str],
    environment: Sequence[str] = (),
    exposed: Sequence[str] = (),
) -> bytes:
    """One layer with ``files`` (executable) and symbolic ``links``, to be loaded as ``name``.

    ``exposed`` are ports, as ``80/tcp``.

    The same arguments give the same bytes, so the image has the same digest everywhere.
    """
    layer = _tar(files, links)
    config = json.dumps(
        {
            "architecture": _MACHINES.get(os.uname().machine, os.uname().machine),
            "os": "linux",
            "config": {
                "Cmd": list(command),
                "Env": ["PATH=/bin:/sbin:/usr/bin:/usr/sbin", *environment],
            }
            | ({"ExposedPorts": {port: {} for port in exposed}} if exposed else {}),
            "rootfs": {"type": "layers", "diff_ids": [f"sha256:{_sum(layer)}"]},
            "history": [{"created_by": "warmboot"}],
            "created": "1970-01-01T00:00:00Z",
        },
        sort_keys=True,
    ).encode()
    config_name, layer_name = f"{_sum(config)}.json", f"{_sum(layer)}/layer.tar"
    manifest = [{"Config": config_name, "RepoTags": [name], "Layers": [layer_name]}]
    return _tar(
        {config_name: config, layer_name: layer, "manifest.json": json.dumps(manifest).encode()}, {}
    )


def _tar(files: Mapping[str, bytes], links: Mapping[str, str]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.GNU_FORMAT) as tar:
        for path, content in sorted(files.items()):
            member = tarfile.TarInfo(path)
            member.size, member.mode = len(content), 0o755
            tar.addfile(member, io.BytesIO(content))
        for path, target in sorted(links.items()):
            member = tarfile.TarInfo(path)
            member.type, member.linkname, member.mode = tarfile.SYMTYPE, target, 0o777
            tar.addfile(member)
    return buffer.getvalue()


def _sum(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
