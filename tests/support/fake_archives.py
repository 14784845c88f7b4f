"""Uploaded archives of the fakes."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator

from warmboot.model.errors import InvalidRequest


class FakeArchives:
    def __init__(self) -> None:
        self.kept: dict[str, bytes] = {}

    async def upload(self, chunks: AsyncIterator[bytes], size_bytes: int | None = None) -> str:
        data = b"".join([chunk async for chunk in chunks])
        if not data:
            raise InvalidRequest("the archive is empty", resolution="make one with docker save")
        digest = hashlib.sha256(data).hexdigest()
        self.kept[digest] = data
        return digest
