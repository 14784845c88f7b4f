"""Small image archives: what Docker loads, without layers."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import AsyncIterator

from tests.support.managers import Manager


def packed(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


async def archived(manager: Manager, *names: str) -> str:
    """Upload an archive with an image of each name; its id."""
    images = [{"Config": f"{name}.json", "RepoTags": [name], "Layers": []} for name in names]
    files = {f"{name}.json": {"config": {"Cmd": [name]}} for name in names}
    documents = {**files, "manifest.json": images}
    content = packed({name: json.dumps(one).encode() for name, one in documents.items()})

    async def chunks() -> AsyncIterator[bytes]:
        yield content

    return await manager.services.archives.upload(chunks())


async def chunks_of(content: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(content), 1000):
        yield content[start : start + 1000]
