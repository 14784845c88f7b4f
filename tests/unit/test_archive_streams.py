"""An archive is written and read with little memory, and nothing is on the disk a second time."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.root

MIB = 1 << 20
LAYER_FILES, FILE_BYTES, PAGES_BYTES = 32, 4 * MIB, 96 * MIB
LARGEST_FILE_BYTES, MOST_MEMORY_BYTES = 100 * MIB, 80 * MIB

SCRIPT = f"""
import resource, sys
from datetime import UTC, datetime
from pathlib import Path
from warmboot.criu.archives.archive import Limits, read_manifest, unpack_archive
from warmboot.criu.archives.manifests import CONFIG_DUMP, SPEC_DUMP
from warmboot.criu.archives.packing import write_archive
from warmboot.model.checkpoint import ArchiveManifest, Versions

root = Path(sys.argv[1])
resource.setrlimit(resource.RLIMIT_FSIZE, ({LARGEST_FILE_BYTES}, {LARGEST_FILE_BYTES}))
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10
manifest = ArchiveManifest(
    "cp", datetime.now(UTC), "i", "d", Versions("", "", "", ""), "host", 1, 0
)
before = peak()
metadata = {{CONFIG_DUMP: b"{{}}", SPEC_DUMP: b"{{}}"}}
write_archive(root / "memory", root / "upper", manifest, metadata, root / "archive")
for name in ("staging", "changes"):
    (root / name).mkdir()
unpack_archive(
    root / "archive", root / "staging", root / "changes", read_manifest(root / "archive"), Limits()
)
print(peak() - before)
"""


def test_neither_is_all_of_it_in_memory_nor_twice_on_the_disk(tmp_path: Path) -> None:
    """The worker's files are more than one file may have here: there is no tar of them."""
    assert LAYER_FILES * FILE_BYTES > LARGEST_FILE_BYTES
    (tmp_path / "memory").mkdir()
    with (tmp_path / "memory" / "pages-1.img").open("wb") as pages:
        pages.truncate(PAGES_BYTES)
    (tmp_path / "upper").mkdir()
    for number in range(LAYER_FILES):
        (tmp_path / "upper" / f"f{number}").write_bytes(bytes([number]) * FILE_BYTES)
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(tmp_path)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < MOST_MEMORY_BYTES < PAGES_BYTES
    changes = tmp_path / "changes"
    assert len(list(changes.iterdir())) == LAYER_FILES
    assert (changes / "f7").read_bytes() == bytes([7]) * FILE_BYTES
    images = tmp_path / "staging" / "checkpoint"
    assert (images / "pages-1.img").stat().st_size == PAGES_BYTES
    assert {path.name for path in images.parent.iterdir()} == {
        "checkpoint",
        "config.dump",
        "spec.dump",
        "deleted.files",
    }
