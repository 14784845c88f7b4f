"""SHA-256 of large, often sparse files, and copies that stay sparse."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import sys
from collections.abc import Iterable, Iterator
from importlib.util import find_spec
from pathlib import Path

from warmboot.model.runtime_image import FileSum

_CHUNK = 4 << 20
_ZEROS = bytes(_CHUNK)
_FICLONE = 0x40049409


def sum_file(path: Path) -> FileSum:
    """Size and SHA-256 of a file. Blocking: call it in a thread.

    The sum is the ordinary one, of all bytes. Holes are not read, only counted in as zeros, which
    spares the page cache.
    """
    digest = hashlib.sha256()
    buffer = bytearray(_CHUNK)
    view = memoryview(buffer)
    with path.open("rb", buffering=0) as file:
        size = os.fstat(file.fileno()).st_size
        for start, end in _extents(file.fileno(), size):
            _update_zeros(digest, start - file.tell())
            file.seek(start)
            while start < end:
                count = file.readinto(view[: min(_CHUNK, end - start)])
                if not count:
                    break
                digest.update(view[:count])
                start += count
        _update_zeros(digest, size - file.tell())
    return FileSum(size, digest.hexdigest())


def sum_extents(path: Path) -> str:
    """A SHA-256 of where a file has data, and which: of a file that is nearly all holes, at once.

    Equal sums mean equal content; other sums mean nothing, since the same content may be laid out
    in another way. Blocking.
    """
    digest = hashlib.sha256()
    with path.open("rb", buffering=0) as file:
        size = os.fstat(file.fileno()).st_size
        digest.update(f"{size}".encode())
        for start, end in _extents(file.fileno(), size):
            digest.update(f" {start} {end} ".encode())
            file.seek(start)
            while start < end:
                chunk = file.read(min(_CHUNK, end - start))
                if not chunk:
                    break
                digest.update(chunk)
                start += len(chunk)
    return digest.hexdigest()


def copy_sparse(source: Path, target: Path) -> None:
    """A new file with the same content: a reflink where the file system can, else a copy that
    keeps holes. Blocking: call it in a thread.
    """
    with source.open("rb", buffering=0) as old, target.open("xb", buffering=0) as new:
        try:
            fcntl.ioctl(new.fileno(), _FICLONE, old.fileno())
            return
        except OSError as error:
            if error.errno not in (errno.EOPNOTSUPP, errno.EXDEV, errno.EINVAL, errno.ENOTTY):
                raise
        size = os.fstat(old.fileno()).st_size
        new.truncate(size)
        for start, end in _extents(old.fileno(), size):
            while start < end and (count := _copy(old.fileno(), new.fileno(), start, end - start)):
                start += count


def _copy(old: int, new: int, start: int, length: int) -> int:
    """Within the kernel where that can be: it costs half of what reading and writing do."""
    try:
        return os.copy_file_range(old, new, length, start, start)
    except OSError as error:
        if error.errno not in (errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP):
            raise
    return os.pwrite(new, os.pread(old, min(_CHUNK, length), start), start)


def _extents(descriptor: int, size: int) -> Iterator[tuple[int, int]]:
    """The parts of a file that are not holes, as (start, end), without moving its position."""
    here = os.open(f"/proc/self/fd/{descriptor}", os.O_RDONLY | os.O_CLOEXEC)
    try:
        end = 0
        while end < size:
            try:
                start = os.lseek(here, end, os.SEEK_DATA)
            except OSError as error:
                if error.errno == errno.ENXIO:  # nothing but a hole from here on
                    return
                raise
            end = os.lseek(here, start, os.SEEK_HOLE)
            yield start, min(end, size)
    finally:
        os.close(here)


def _update_zeros(digest: hashlib._Hash, count: int) -> None:
    while count > 0:
        part = min(count, _CHUNK)
        digest.update(_ZEROS if part == _CHUNK else _ZEROS[:part])
        count -= part


def code_digest(packages: Iterable[str]) -> str:
    """A digest of the Python modules in these packages and their subpackages, as they are on the
    disk, and of the interpreter's version. Blocks for some milliseconds.

    ``ImportError`` where there is no such package.
    """
    digest = hashlib.sha256(sys.version.encode())
    for name in packages:
        spec = find_spec(name)
        if spec is None or spec.submodule_search_locations is None:
            raise ImportError(f"there is no package {name}")
        for folder in map(Path, spec.submodule_search_locations):
            for path in sorted(folder.rglob("*.py")):
                digest.update(f"\0{name}/{path.relative_to(folder)}\0".encode())
                digest.update(path.read_bytes())
    return digest.hexdigest()
