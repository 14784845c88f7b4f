"""Whether a stored runtime image's files are what they were when it was registered.

The check is as a snapshot's: cheap where the note of its folder knows each file as it is, else, and
whenever it is to be thorough, by the sums (``seen``). Blocking: call it in a thread.
"""

from __future__ import annotations

import errno
from pathlib import Path

from warmboot.host.seen import load_seen, note_seen, stamp
from warmboot.images.files import FILE_NAMES
from warmboot.images.hashing import sum_file
from warmboot.model.errors import ImageDamaged
from warmboot.model.runtime_image import FileSum, RuntimeImage, RuntimeImageManifest

_CONTENT_IS_LOST = (errno.ENOENT, errno.EIO, errno.EISDIR, errno.ENOTDIR, errno.ELOOP)


def check_image(image: RuntimeImage, thorough: bool) -> None:
    """``ImageDamaged``, which says how to get the image back."""
    seen = {} if thorough else load_seen(image.path)
    news = {}
    for key, expected in image.manifest.files.items():
        path = image.path / FILE_NAMES[key]
        try:
            now = stamp(path)
            if seen.get(path.name) != now:
                _compare(image, path, now["size"], expected)
                news[path.name] = now
        except OSError as error:
            if error.errno not in _CONTENT_IS_LOST:
                raise
            why = "is missing" if error.errno == errno.ENOENT else f"cannot be read: {error}"
            raise damaged(image, f"{path} {why}") from error
    if news:
        note_seen(image.path, seen | news)


def note_image(folder: Path, manifest: RuntimeImageManifest) -> None:
    """Its sums have just been taken: note how the files are."""
    note_seen(folder, {FILE_NAMES[key]: stamp(folder / FILE_NAMES[key]) for key in manifest.files})


def damaged(image: RuntimeImage, details: str) -> ImageDamaged:
    return ImageDamaged(
        f"the runtime image {image.name} is damaged",
        details=details,
        resolution="nothing is booted from it until it is whole again: register a good copy of "
        f"the same files (`warmboot runtime register --name {image.name} DIR`), or put the "
        "file back; or build and register another image (`warmboot runtime build`)",
    )


def _compare(image: RuntimeImage, path: Path, size: int, expected: FileSum) -> None:
    if size != expected.size_bytes:
        raise damaged(image, f"{path} has {size} bytes instead of {expected.size_bytes}")
    found = sum_file(path)
    if found != expected:
        raise damaged(image, f"{path} is not what it was: its SHA-256 differs")
