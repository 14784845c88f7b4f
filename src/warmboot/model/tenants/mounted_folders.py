"""Where folders of this machine that a VM was given are in it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from warmboot.model.tenants.host_folder import HostFolder

IN_GUEST = "/run/warmboot/folders"
"""Where ``guest.folders`` mounts them, each by its id."""


def folder_of(source: str, folders: Sequence[HostFolder]) -> tuple[HostFolder, str] | None:
    """The folder in which a path of this machine is, once its links are followed, and its name in
    the VM; the innermost counts. ``None``: it is in none of them. Blocks.
    """
    try:
        path = Path(source).resolve()
    except (OSError, RuntimeError, ValueError):  # links in circles, or no name of a file
        return None
    for folder in sorted(folders, key=lambda one: len(one.path), reverse=True):
        if path.is_relative_to(folder.path):
            inside = PurePosixPath(IN_GUEST, folder.id) / path.relative_to(folder.path)
            return folder, str(inside)
    return None
