"""Uploaded image archives: how they come, and what is in them."""

from warmboot.manager.containers.archives.archive_files import ArchiveFiles

__all__ = ["ArchiveFiles"]
