"""A disk of a size one chooses: what lies in its folder takes its room."""

from __future__ import annotations

from pathlib import Path

from warmboot.model.errors import DiskFull


class Disk:
    def __init__(self, folder: Path, size_bytes: int = 1 << 40, floor_bytes: int = 0) -> None:
        self.folder = folder
        self.size_bytes = size_bytes
        self.floor_bytes = floor_bytes
        self.least_free_bytes = size_bytes

    def free_bytes(self) -> int:
        used = sum(path.stat().st_size for path in self.folder.rglob("*") if path.is_file())
        return self.size_bytes - used

    async def ensure_room(self, needed_bytes: int = 0) -> None:
        self.check_room(needed_bytes)

    def check_room(self, needed_bytes: int = 0) -> None:
        free = self.free_bytes()
        self.least_free_bytes = min(self.least_free_bytes, free)
        if free < self.floor_bytes + needed_bytes:
            raise DiskFull(f"only {free} bytes are free")
