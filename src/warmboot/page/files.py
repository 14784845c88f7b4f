"""The page's files, read once: what is served is what was there then, and nothing else ever is.

    static/index.html          /                     the only document; it loads the rest
    static/app/*.js            /page/VERSION/app/…   the page itself, as ES modules
    static/vendor/*            /page/VERSION/vendor/…  libraries (``scripts/vendor_page.py``)
    static/boot.js, style.css  /page/VERSION/…

VERSION is a sum of all of them, so a browser never mixes two versions, and need not ask for a file
that it has.
"""

from __future__ import annotations

import gzip
import hashlib
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import MappingProxyType

STATIC = Path(__file__).parent / "static"
DOCUMENT = "index.html"
_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
    ".txt": "text/plain; charset=utf-8",
}


@dataclass(frozen=True, slots=True)
class PageFile:
    """One file: its type, its bytes as they are and compressed, and a tag that changes with it."""

    media_type: str
    content: bytes
    compressed: bytes
    etag: str


@cache
def page_files() -> MappingProxyType[str, PageFile]:
    """All of them by the path of their URL."""
    paths = sorted(path for path in STATIC.rglob("*") if path.suffix in _TYPES)
    contents = {path.relative_to(STATIC).as_posix(): path.read_bytes() for path in paths}
    below = f"/page/{_sum(*contents.values())}/"
    document = contents.pop(DOCUMENT).replace(b'"/page/', f'"{below}'.encode())
    files = {below + name: _file(name, content) for name, content in contents.items()}
    return MappingProxyType({"/": _file(DOCUMENT, document), **files})


def _file(name: str, content: bytes) -> PageFile:
    compressed = gzip.compress(content, mtime=0)
    return PageFile(_TYPES[Path(name).suffix], content, compressed, f'"{_sum(content)}"')


def _sum(*contents: bytes) -> str:
    found = hashlib.sha256()
    for content in contents:
        found.update(hashlib.sha256(content).digest())
    return found.hexdigest()[:16]
