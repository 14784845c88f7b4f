"""An archive is written and read with little memory, and nothing is on the disk a second time.

What goes into it is read once, checked against its sums meanwhile.
"""

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
import asyncio, hashlib, resource, sys
from datetime import UTC, datetime
from pathlib import Path
from warmboot.criu.archives.archive import Limits, unpack_archive
from warmboot.criu.archives.arriving import arriving
from warmboot.criu.archives.manifests import CONFIG_DUMP, SPEC_DUMP
from warmboot.criu.archives.packing import Contents, stream_archive
from warmboot.criu.runtime.sums import make_sums
from warmboot.model.checkpoint import ArchiveManifest, Versions
from warmboot.system.concurrency import in_own_thread

root = Path(sys.argv[1])
resource.setrlimit(resource.RLIMIT_FSIZE, ({LARGEST_FILE_BYTES}, {LARGEST_FILE_BYTES}))
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10
manifest = ArchiveManifest(
    "cp", datetime.now(UTC), "i", "d", Versions("", "", "", ""), "host", 1, 0
)
make_sums(root, root / "memory", root / "upper")
before = peak()
metadata = {{CONFIG_DUMP: b"{{}}", SPEC_DUMP: b"{{}}"}}
contents = Contents(manifest, metadata, root / "memory", root / "upper", root)

def io_bytes():
    lines = Path("/proc/self/io").read_text().splitlines()
    return {{name: int(count) for name, count in (line.split(": ") for line in lines)}}

async def receive():
    with (root / "archive").open("wb") as file:
        async for chunk in stream_archive(contents):
            file.write(chunk)

was = io_bytes()
asyncio.run(receive())
now = io_bytes()
print(now["rchar"] - was["rchar"])
print(now["wchar"] - was["wchar"], (root / "archive").stat().st_size)
for name in ("staging", "changes"):
    (root / name).mkdir()

async def sent():
    with (root / "archive").open("rb") as file:
        while chunk := file.read(65536):
            yield chunk

async def bring_in():
    async with arriving(sent()) as source:
        places = root / "staging", root / "changes"
        await in_own_thread(
            lambda: unpack_archive(source, *places, lambda manifest: None, Limits()), "import"
        )
        return source.hexdigest()

digest = asyncio.run(bring_in())
assert digest == hashlib.sha256((root / "archive").read_bytes()).hexdigest()
print(io_bytes()["wchar"] - now["wchar"])
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
    read, written, archive, unpacked, memory = map(int, done.stdout.split())
    content = LAYER_FILES * FILE_BYTES + PAGES_BYTES
    assert content <= read < 1.2 * content, "each byte is read once"
    assert written < 3 * archive + MIB < content, "through a pipe, into the file, and nowhere else"
    assert content < unpacked < content + MIB, "unpacked as it comes"
    assert memory < MOST_MEMORY_BYTES < PAGES_BYTES
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
