"""Checks that the files of a stored runtime image are unchanged since its registration.

The check is as a snapshot's: cheap where the note of its folder knows each file as it is, else, and
whenever it is to be thorough, by the sums (``system.file_stamps``). The empty disk is 8 GiB of
holes, whose sum takes seconds: a second note has the sum of its data alone. Blocking: call it in a
thread.
"""

from __future__ import annotations

import contextlib
import errno
import json
from pathlib import Path
from typing import Any

from warmboot.images.files import FILE_NAMES
from warmboot.model.errors import ImageDamaged
from warmboot.model.runtime_image import FileSum, RuntimeImage, RuntimeImageManifest
from warmboot.system.file_stamps import UNFINISHED, load_stamps, save_stamps, stamp
from warmboot.system.hashing import sum_extents, sum_file

EXTENTS_FILE = ".extents.json"
_CONTENT_IS_LOST = (errno.ENOENT, errno.EIO, errno.EISDIR, errno.ENOTDIR, errno.ELOOP)


def check_image(image: RuntimeImage, thorough: bool) -> None:
    """Raise ``ImageDamaged``, which says how to repair it, unless the files are as registered."""
    stamps = {} if thorough else load_stamps(image.path)
    news = {}
    for key, expected in image.manifest.files.items():
        path = image.path / FILE_NAMES[key]
        try:
            now = stamp(path)
            if stamps.get(path.name) != now:
                _compare(image, path, now["size"], expected)
                news[path.name] = now
        except OSError as error:
            if error.errno not in _CONTENT_IS_LOST:
                raise
            why = "is missing" if error.errno == errno.ENOENT else f"cannot be read: {error}"
            raise damaged(image, f"{path} {why}") from error
    if news:
        save_stamps(image.path, stamps | news)


def note_image(folder: Path, manifest: RuntimeImageManifest) -> None:
    """Its sums have just been taken: note how the files are."""
    save_stamps(
        folder, {FILE_NAMES[key]: stamp(folder / FILE_NAMES[key]) for key in manifest.files}
    )
    for key, expected in manifest.files.items():
        if _is_sparse(path := folder / FILE_NAMES[key]):
            _note_extents(path, expected)


def damaged(image: RuntimeImage, details: str) -> ImageDamaged:
    return ImageDamaged(
        f"the runtime image {image.name} is damaged",
        details=details,
        resolution="nothing is booted from it until it is repaired: register a good copy of "
        f"the same files (`warmboot runtime register --name {image.name} DIR`), or put the "
        "file back; or build and register another image (`warmboot runtime build`)",
    )


def _compare(image: RuntimeImage, path: Path, size: int, expected: FileSum) -> None:
    if size != expected.size_bytes:
        raise damaged(image, f"{path} has {size} bytes instead of {expected.size_bytes}")
    if _is_sparse(path) and _extents_noted(path, expected) == sum_extents(path):
        return
    if sum_file(path) != expected:
        raise damaged(image, f"{path} is not what it was: its SHA-256 differs")
    if _is_sparse(path):
        _note_extents(path, expected)


def _is_sparse(path: Path) -> bool:
    status = path.stat()
    return status.st_blocks * 512 < status.st_size // 2


def _extents_noted(path: Path, expected: FileSum) -> str | None:
    """The sum of the data in the file that has the ``expected`` sum, if it was ever taken."""
    noted = _load_extents(path.parent).get(path.name)
    if not isinstance(noted, dict) or noted.get("sha256") != expected.sha256:
        return None
    return str(noted.get("extents"))


def _note_extents(path: Path, expected: FileSum) -> None:
    """Its sum has just been taken, and is right. If it cannot be noted, it is taken again."""
    one = {path.name: {"extents": sum_extents(path), "sha256": expected.sha256}}
    temporary = path.parent / f"{EXTENTS_FILE}{UNFINISHED}"
    with contextlib.suppress(OSError):
        temporary.write_text(json.dumps(_load_extents(path.parent) | one))
        temporary.rename(path.parent / EXTENTS_FILE)


def _load_extents(folder: Path) -> dict[str, Any]:
    try:
        document = json.loads((folder / EXTENTS_FILE).read_text())
    except (OSError, ValueError):
        return {}
    return document if isinstance(document, dict) else {}
