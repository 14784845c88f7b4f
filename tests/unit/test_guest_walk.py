"""The program that a start is walked with: it needs nothing, and ends with 0."""

from __future__ import annotations

import subprocess
from pathlib import Path

from warmboot.host.guest.guest_walk import ending_program


def test_it_runs_and_ends_with_0(tmp_path: Path) -> None:
    program = tmp_path / "true"
    program.write_bytes(ending_program())
    program.chmod(0o755)
    done = subprocess.run([program], env={}, capture_output=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
