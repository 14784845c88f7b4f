"""Files of a simulated container: those that were copied into it, and a few folders.

Its programs do not see them: there is no file system, only what is needed to copy in and out.
"""

from __future__ import annotations

import base64
import io
import json
import tarfile
import time
from datetime import UTC, datetime
from pathlib import PurePosixPath
from typing import Any

from warmboot.hypervisors.simulated.vmm.docker.http import HttpError

Record = dict[str, Any]
FOLDERS = ("/", "/etc", "/root", "/tmp", "/usr", "/usr/bin", "/var")
_GO_FOLDER, _GO_LINK = 1 << 31, 1 << 27
_LONGEST = 64 << 20


def processes(record: Record, options: str) -> Record:
    if not record["state"]["Running"]:
        raise HttpError(409, f"container {record['id']} is not running")
    words = [*(record["config"]["Entrypoint"] or ()), *(record["config"]["Cmd"] or ())]
    if options and not set(options) <= set("-axuefwo "):
        raise HttpError(500, f"ps: error: unsupported options {options}")
    row = ["root", str(record["state"]["Pid"]), "1", "0", "00:00", "?", "00:00:00", " ".join(words)]
    return {
        "Titles": ["UID", "PID", "PPID", "C", "STIME", "TTY", "TIME", "CMD"],
        "Processes": [row],
    }


def changes(record: Record) -> list[Record]:
    return [{"Path": path, "Kind": 1} for path in sorted(_files(record))]


def status(record: Record, path: str) -> str:
    """The header that tells of a file."""
    entry = _entry(record, path)
    mode = entry["mode"]
    if entry["kind"] == "folder":
        mode |= _GO_FOLDER
    elif entry["kind"] == "link":
        mode |= _GO_LINK
    told = {
        "name": PurePosixPath(path).name or "/",
        "size": len(base64.b64decode(entry["data"])),
        "mode": mode,
        "mtime": datetime.fromtimestamp(entry["mtime"], UTC).isoformat().replace("+00:00", "Z"),
        "linkTarget": entry["link"],
    }
    return base64.b64encode(json.dumps(told).encode()).decode()


def packed(record: Record, path: str) -> bytes:
    """A file or folder as a tar."""
    _entry(record, path)
    top = PurePosixPath(path)
    name = top.name or "."
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for place in [
            path,
            *(one for one in sorted(_all(record)) if top in PurePosixPath(one).parents),
        ]:
            entry = _all(record)[place]
            rest = PurePosixPath(place).relative_to(top)
            info = tarfile.TarInfo(str(PurePosixPath(name, rest)))
            info.mode, info.mtime = entry["mode"], int(entry["mtime"])
            data = base64.b64decode(entry["data"])
            if entry["kind"] == "folder":
                info.type = tarfile.DIRTYPE
            elif entry["kind"] == "link":
                info.type, info.linkname = tarfile.SYMTYPE, entry["link"]
            else:
                info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return out.getvalue()


def unpack(record: Record, folder: str, data: bytes) -> None:
    if _entry(record, folder)["kind"] != "folder":
        raise HttpError(400, "extraction point is not a directory")
    try:
        with tarfile.open(fileobj=io.BytesIO(data)) as tar:
            found = list(tar)
            for info in found:
                _put(record, str(PurePosixPath(folder, info.name)), info, tar)
    except tarfile.TarError as error:
        raise HttpError(500, f"Error processing tar file: {error}") from error


def _put(record: Record, path: str, info: tarfile.TarInfo, tar: tarfile.TarFile) -> None:
    file = tar.extractfile(info) if info.isreg() else None
    kind = "folder" if info.isdir() else "link" if info.issym() else "file"
    there = _all(record).get(path)
    if there is not None and (there["kind"] == "folder") != (kind == "folder"):
        raise HttpError(400, f"cannot overwrite {path} with what is of another kind")
    _files(record)[path] = {
        "kind": kind,
        "mode": info.mode & 0o777,
        "mtime": info.mtime,
        "link": info.linkname if kind == "link" else "",
        "data": base64.b64encode(file.read(_LONGEST) if file else b"").decode(),
    }


def _files(record: Record) -> dict[str, Record]:
    found: dict[str, Record] = record.setdefault("files", {})
    return found


def _all(record: Record) -> dict[str, Record]:
    folder = {"kind": "folder", "mode": 0o755, "mtime": time.time() // 1, "link": "", "data": ""}
    return {**dict.fromkeys(FOLDERS, folder), **_files(record)}


def _entry(record: Record, path: str) -> Record:
    known = _all(record)
    if path not in known:
        raise HttpError(404, f"Could not find the file {path} in container {record['id']}")
    return known[path]
