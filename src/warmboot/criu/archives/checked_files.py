"""Files of a checkpoint that are checked against its sums while they are read, and not before.

So whoever reads a checkpoint reads it once, and knows at the end of each file whether it was what
was written. What a file's holes hold is not read.
"""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import IO, cast

from typing_extensions import override

from warmboot.criu.runtime.sums import (
    BLOCK_BYTES,
    compare,
    crc32,
    damaged,
    kept_sums,
    regular_files,
    sum_of_zeros,
)

_ZEROS = bytes(1 << 16)


class CheckedFiles:
    """The files in ``checkpoint``, by the sums that it has; one without is read as it is."""

    def __init__(self, checkpoint: Path | None) -> None:
        self._checkpoint = checkpoint
        self._kept = kept_sums(checkpoint) if checkpoint is not None else None

    def check_names(self, folder: Path) -> None:
        """``CheckpointError`` unless ``folder`` has the files that it had, of the same sizes."""
        if self._checkpoint is None or self._kept is None:
            return
        top = self._checkpoint
        inside = f"{folder.relative_to(top)}{os.sep}"
        expected = {name: one[0] for name, one in self._kept.items() if name.startswith(inside)}
        found = {str(path.relative_to(top)): size for path, size in regular_files(folder)}
        compare(top, expected, found)

    def open(self, path: str) -> IO[bytes]:
        """Open the file, to be read once from its beginning; closing it checks its sum
        (``CheckpointError``).
        """
        file = io.FileIO(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC))
        top, name = self._checkpoint, ""
        if top is not None and Path(path).is_relative_to(top):
            name = str(Path(path).relative_to(top))
        if top is None or self._kept is None or not name:
            return cast(IO[bytes], file)
        return cast(IO[bytes], _Checked(file, top, name, self._kept[name]))


class _Checked(io.RawIOBase):
    """What is passed over by a seek counts as zeros."""

    def __init__(
        self, file: io.FileIO, checkpoint: Path, name: str, expected: tuple[int, ...]
    ) -> None:
        self._file = file
        self._checkpoint = checkpoint
        self._name = name
        self._expected = expected
        self._sums: list[int] = []
        self._sum = 0
        self._summed = 0
        self._failed = False

    @override
    def fileno(self) -> int:
        return self._file.fileno()

    @override
    def readable(self) -> bool:
        return True

    @override
    def seekable(self) -> bool:
        return True

    @override
    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        return self._file.seek(offset, whence)

    @override
    def tell(self) -> int:
        return self._file.tell()

    @override
    def readinto(self, buffer: object, /) -> int:
        at = self._file.tell()
        count = self._file.readinto(cast(bytearray, buffer)) or 0
        self._add_zeros(at)
        self._add(memoryview(cast(bytearray, buffer))[:count])
        return count

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        if error is None:
            self._check()
        super().__exit__(kind, error, trace)  # type: ignore[arg-type]

    @override
    def close(self) -> None:
        self._file.close()
        super().close()

    def _check(self) -> None:
        size = os.fstat(self.fileno()).st_size
        self._add_zeros(size)
        rest = (self._sum,) if self._summed % BLOCK_BYTES else ()
        if (size, *self._sums, *rest) != tuple(self._expected):
            raise damaged(
                self._checkpoint, f"{self._checkpoint / self._name} is not what was written"
            )

    def _add_zeros(self, until: int) -> None:
        while (left := until - self._summed) > 0:
            begun = self._summed % BLOCK_BYTES
            if left >= BLOCK_BYTES and not begun:  # a worker may have a file of a terabyte
                self._sums.append(sum_of_zeros(BLOCK_BYTES))
                self._summed += BLOCK_BYTES
            else:
                self._add(memoryview(_ZEROS)[: min(left, BLOCK_BYTES - begun)])

    def _add(self, part: memoryview) -> None:
        while part:
            count = min(len(part), BLOCK_BYTES - self._summed % BLOCK_BYTES)
            self._sum = crc32(part[:count], self._sum)
            self._summed += count
            part = part[count:]
            if not self._summed % BLOCK_BYTES:
                self._sums.append(self._sum)
                self._sum = 0
