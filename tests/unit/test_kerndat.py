"""Whether CRIU's own cache of what the kernel can do is lost, by what is mounted."""

from __future__ import annotations

from pathlib import Path

import pytest

from warmboot.criu.kerndat.cache import is_lost

ROOT = "1 0 254:0 / / rw,relatime - ext4 /dev/vda rw"
SHARED_ROOT = "1 0 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw"
TMPFS = "2 1 0:25 / /run rw,nosuid shared:5 master:2 - tmpfs tmpfs rw"
OVER_IT = "3 1 254:0 /run /run rw - ext4 /dev/vda rw"
BELOW, BESIDE = "4 1 0:26 / /run/lock rw - tmpfs tmpfs rw", "5 1 0:27 / /runs rw - tmpfs tmpfs rw"


@pytest.mark.parametrize(
    ("mounts", "lost"),
    [
        ((ROOT,), True),
        ((ROOT, BELOW, BESIDE), True),
        ((ROOT, TMPFS), False),
        ((TMPFS, ROOT), False),
        ((ROOT, TMPFS, OVER_IT), True),
        ((SHARED_ROOT,), False),  # whatever is mounted for runc would be seen by all
    ],
)
def test_it_is_lost_where_run_is_on_a_disk(
    tmp_path: Path, mounts: tuple[str, ...], lost: bool
) -> None:
    listed = tmp_path / "mountinfo"
    listed.write_text("".join(f"{line}\n" for line in mounts))
    assert is_lost(Path("/run"), listed) is lost
