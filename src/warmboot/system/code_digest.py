"""Which code a process runs: for processes that outlive the release that has started them."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path


def code_digest(packages: Iterable[str]) -> str:
    """A digest of the Python modules in these packages and their subpackages, as they are on the
    disk, and of the interpreter's version. Blocks for some milliseconds.

    ``ImportError`` where there is no such package.
    """
    digest = hashlib.sha256(sys.version.encode())
    for name in packages:
        spec = find_spec(name)
        if spec is None or spec.submodule_search_locations is None:
            raise ImportError(f"there is no package {name}")
        for folder in map(Path, spec.submodule_search_locations):
            for path in sorted(folder.rglob("*.py")):
                digest.update(f"\0{name}/{path.relative_to(folder)}\0".encode())
                digest.update(path.read_bytes())
    return digest.hexdigest()
