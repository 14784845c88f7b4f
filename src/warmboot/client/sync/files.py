"""``warmboot.client.files.container_files`` without ``await``, by ``scripts/sync_client.py``."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from warmboot.client.files.container_files import Change, FileStatus, ProcessTable  # keep
from warmboot.client.files.container_files import ContainerFiles as _ContainerFiles
from warmboot.client.sync.portal import Portal


class ContainerFiles:
    """``ref`` is a container's name, id, or the beginning of its id."""

    def __init__(self, portal: Portal, of: _ContainerFiles) -> None:
        self._portal, self._of = portal, of

    def processes(self, ref: str, ps_args: str = "-ef") -> ProcessTable:
        """Its processes, as ``ps`` in its VM shows them with these arguments."""
        return self._portal.run(lambda: self._of.processes(ref, ps_args))

    def changes(self, ref: str) -> list[Change]:
        """What is not as its image has it."""
        return self._portal.run(lambda: self._of.changes(ref))

    def status(self, ref: str, path: str) -> FileStatus:
        """``NotFound`` if there is no such file. A link is not followed."""
        return self._portal.run(lambda: self._of.status(ref, path))

    def read(self, ref: str, path: str) -> Iterator[bytes]:
        """A file or folder as a tar, in which it has its own name."""
        return self._portal.iterate(self._of.read(ref, path))

    def write(
        self, ref: str, folder: str, tar: Iterable[bytes], *, keep_owners: bool = False
    ) -> None:
        """Unpack ``tar`` in a folder that is there."""
        self._portal.run(
            lambda: self._of.write(ref, folder, self._portal.fed(tar), keep_owners=keep_owners)
        )

    def copy_out(
        self,
        ref: str,
        source_path: str,
        target: Path | str,
        *,
        follow_link: bool = False,
        keep_owners: bool = False,
    ) -> int:
        """Copy ``source_path`` of the container to ``target`` here; the bytes of the tar between.

        ``NotFound``, ``InvalidRequest``, ``OSError``.
        """
        return self._portal.run(
            lambda: self._of.copy_out(
                ref, source_path, target, follow_link=follow_link, keep_owners=keep_owners
            )
        )

    def copy_in(
        self,
        ref: str,
        source_path: Path | str,
        target: str,
        *,
        follow_link: bool = False,
        keep_owners: bool = False,
    ) -> int:
        """Copy ``source_path`` to ``target`` in the container; the bytes of the tar between.

        ``NotFound``, ``InvalidRequest``, ``OSError``.
        """
        return self._portal.run(
            lambda: self._of.copy_in(
                ref, source_path, target, follow_link=follow_link, keep_owners=keep_owners
            )
        )
