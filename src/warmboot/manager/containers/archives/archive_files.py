"""Uploaded image archives: ``docker save`` tars and OCI image layouts, by their SHA-256.

They are stored as a plain tar that Docker can load: unpacked if they came compressed, for an engine
may lack the program for it, and with a ``manifest.json`` if they are an OCI layout.
"""

from __future__ import annotations

import asyncio
import os
import re
import secrets
from collections.abc import AsyncIterator
from pathlib import Path

from warmboot.manager.containers.archives.compression import opener_of, unpacked
from warmboot.manager.containers.archives.contents import check_has, images_of, make_loadable
from warmboot.manager.core.uploads import Uploads
from warmboot.model.errors import NotFound
from warmboot.system.disks import os_error

_CHUNK = 1 << 20
_ID = re.compile(r"[0-9a-f]{64}")


class ArchiveFiles:
    """Archives below ``root``. Those that no container needs are collected after a day."""

    def __init__(self, root: Path, uploads: Uploads) -> None:
        self.root = root
        self._uploads = uploads

    async def upload(self, chunks: AsyncIterator[bytes], size_bytes: int | None = None) -> str:
        """Store an archive; its id. ``InvalidRequest`` if it is no image archive, ``DiskFull``."""
        temporary = self.root / f".upload-{secrets.token_hex(8)}"
        plain = temporary.with_suffix(".tar")
        try:
            self.root.mkdir(parents=True, exist_ok=True, mode=0o700)
            archive_id = await self._uploads.receive(temporary, chunks, size_bytes)
            if (opener := await asyncio.to_thread(opener_of, temporary)) is not None:
                await self._uploads.receive(plain, unpacked(temporary, opener), None)
                plain.replace(temporary)
            await asyncio.to_thread(make_loadable, temporary)
            temporary.rename(self.root / archive_id)
        except OSError as error:
            raise os_error(error) from error
        finally:
            temporary.unlink(missing_ok=True)
            plain.unlink(missing_ok=True)
        return archive_id

    def find(self, archive_id: str) -> Path:
        path = self.root / archive_id
        if not _ID.fullmatch(archive_id) or not path.is_file():
            raise NotFound(
                f"there is no archive {archive_id[:80]!r}",
                resolution="upload it again: without a container it is kept for a day",
            )
        os.utime(path)
        return path

    async def check_has(self, archive_id: str, reference: str) -> None:
        """``NotFound``; ``ImageNotFound`` or ``InvalidRequest`` if ``reference`` is not in it."""
        path = self.find(archive_id)
        check_has(await asyncio.to_thread(images_of, path), reference)

    async def read(self, path: Path) -> AsyncIterator[bytes]:
        with path.open("rb") as file:
            while chunk := await asyncio.to_thread(file.read, _CHUNK):
                yield chunk
