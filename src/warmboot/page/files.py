"""The page's files, read once: what is served is what was there then, and nothing else ever is.

static/index.html          /                 the only document; it loads modules and a style
static/app/*.js            /page/app/…       the page itself, as ES modules
static/vendor/*            /page/vendor/…    libraries (``scripts/vendor_page.py``), with licences
static/style.css, icon.svg /page/…
"""

from __future__ import annotations

import gzip
import hashlib
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import MappingProxyType

STATIC = Path(__file__).parent / "static"
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
    return MappingProxyType({_url(path): _read(path) for path in paths})


def _url(path: Path) -> str:
    name = path.relative_to(STATIC).as_posix()
    return "/" if name == "index.html" else f"/page/{name}"


def _read(path: Path) -> PageFile:
    content = path.read_bytes()
    return PageFile(
        _TYPES[path.suffix],
        content,
        gzip.compress(content, mtime=0),
        f'"{hashlib.sha256(content).hexdigest()[:32]}"',
    )
