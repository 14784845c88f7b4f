"""The runtime images that are stored on this host: they come in, are checked, and go."""

from __future__ import annotations

import asyncio
import contextlib
import os
import stat
from dataclasses import dataclass
from pathlib import Path

from warmboot.host.storage.image_files import check_image, note_image
from warmboot.host.storage.storage import remove_folder
from warmboot.host.vm.vm_files import VMM_GID
from warmboot.images.files import FILE_NAMES, import_bare_files, import_runtime_image, stored_folder
from warmboot.images.renew import renew_agent
from warmboot.model.runtime_image import RuntimeImage, RuntimeImageManifest
from warmboot.system.disks import allocated_bytes
from warmboot.system.file_stamps import discard_stamps


@dataclass(frozen=True, slots=True)
class StoredImages:
    """Their folders lie below ``root``, the storage's."""

    root: Path

    async def import_files(
        self, path: Path | None, kernel: Path | None, rootfs: Path | None, initrd: Path | None
    ) -> tuple[Path, RuntimeImageManifest]:
        """Take a runtime image into the storage; where it is now, and its manifest."""
        if path is not None:
            manifest = await import_runtime_image(path, self.root)
        else:
            assert kernel is not None
            assert rootfs is not None
            manifest = await import_bare_files(kernel, rootfs, initrd, self.root)
        return await self._stored(manifest)

    async def renew_agent(self, image: Path) -> tuple[Path, RuntimeImageManifest]:
        """Store the image folder once more, with the guest agent that is shipped here in it."""
        return await self._stored(await renew_agent(image, self.root))

    async def _stored(self, manifest: RuntimeImageManifest) -> tuple[Path, RuntimeImageManifest]:
        folder = stored_folder(self.root, manifest.digest)
        await asyncio.to_thread(_let_vmms_read, folder, manifest)
        await asyncio.to_thread(note_image, folder, manifest)
        return folder, manifest

    async def check(self, image: RuntimeImage, *, thorough: bool = False) -> None:
        """``ImageDamaged`` if its files are not what they were when it was registered.

        Cheap where nothing looks changed, unless it is ``thorough``.
        """
        await asyncio.to_thread(check_image, image, thorough)

    async def suspect(self, image: RuntimeImage) -> None:
        """What is made of it was found damaged: its next check takes all sums."""
        await asyncio.to_thread(discard_stamps, image.path)

    async def stored_bytes(self, image: RuntimeImage) -> int:
        """What its files occupy; none is occupied by one that is missing."""
        return await asyncio.to_thread(_stored_bytes, image)

    async def remove_folder(self, folder: Path) -> None:
        await remove_folder(folder)


def _stored_bytes(image: RuntimeImage) -> int:
    stored = 0
    for key in image.manifest.files:
        with contextlib.suppress(OSError):
            stored += allocated_bytes(image.path / FILE_NAMES[key])
    return stored


def _let_vmms_read(folder: Path, manifest: RuntimeImageManifest) -> None:
    """Only the image's own files: the notes beside them may come and go meanwhile."""
    if os.geteuid() != 0:
        return
    files = (folder / FILE_NAMES[key] for key in manifest.files)
    for path in (folder.parent, folder, *files):
        status = path.stat()
        mode = 0o710 if stat.S_ISDIR(status.st_mode) else 0o440
        # What is so already is left alone: a change of it would look like one of the content.
        if status.st_gid != VMM_GID:
            os.chown(path, -1, VMM_GID)
        if stat.S_IMODE(status.st_mode) != mode:
            path.chmod(mode)
