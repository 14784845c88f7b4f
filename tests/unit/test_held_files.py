"""Files in mounts that a worker held open: noted at its dump, compared at its resume."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from warmboot.criu.runtime.held_files import (
    changed_since,
    command_to_note,
    held_in,
    write_noted,
)
from warmboot.model.checkpoint import ChangedFile

ODD = "it's 100%\r\f\x85\u2028\udcff"
"""With all that ends a line for ``str.splitlines``, and a byte that is not UTF-8."""

HOLDS = "import sys; held = [open(path) for path in sys.argv[1:]]; print(flush=True); input()"


@pytest.fixture
def held(tmp_path: Path) -> Iterator[tuple[Path, dict[str, Path], dict[Path, str]]]:
    """A folder that is mounted, what is mounted, and what a process has open in it."""
    folder = tmp_path / "data"
    folder.mkdir()
    for name in (ODD, "other"):
        (folder / name).write_text("one\n")
    (tmp_path / "outside").touch()
    (folder / "gone").touch()
    paths = [folder / ODD, folder / "other", folder / "gone", tmp_path / "outside"]
    with subprocess.Popen(
        [sys.executable, "-c", HOLDS, *paths], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout and process.stdout.readline() == b"\n"
        (folder / "gone").unlink()
        mounts = {str(folder): folder}
        yield folder, mounts, held_in(mounts, process.pid)
        process.kill()


def noted(held: dict[Path, str], into: Path) -> Path:
    subprocess.run(["sh", "-c", command_to_note(held, into)], check=True)
    return into


def test_files_with_a_name_in_mounts_are_noted_and_no_others(
    held: tuple[Path, dict[str, Path], dict[Path, str]], tmp_path: Path
) -> None:
    folder, mounts, found = held
    assert set(found.values()) == {str(folder / ODD), str(folder / "other")}
    into = noted(found, tmp_path / "held")
    write_noted(into, found)
    assert list(changed_since(into, mounts)) == []


def test_what_is_written_to_and_what_is_gone_is_told(
    held: tuple[Path, dict[str, Path], dict[Path, str]], tmp_path: Path
) -> None:
    folder, mounts, found = held
    into = noted(found, tmp_path / "held")
    write_noted(into, found)
    (folder / ODD).write_text("one\ntwo\n")
    (folder / "other").unlink()
    assert sorted(changed_since(into, mounts), key=lambda one: one.path) == [
        ChangedFile(str(folder / ODD).replace("\udcff", "\N{REPLACEMENT CHARACTER}"), 4, 8),
        ChangedFile(str(folder / "other"), 4, None),
    ]


def test_the_same_size_written_anew_is_a_change(
    held: tuple[Path, dict[str, Path], dict[Path, str]], tmp_path: Path
) -> None:
    folder, mounts, found = held
    into = noted(found, tmp_path / "held")
    write_noted(into, found)
    os.utime(folder / "other", ns=(1, 1))
    assert list(changed_since(into, mounts)) == [ChangedFile(str(folder / "other"), 4, 4)]


def test_what_was_only_begun_to_be_noted_is_not_told_as_a_change(
    held: tuple[Path, dict[str, Path], dict[Path, str]], tmp_path: Path
) -> None:
    _, mounts, found = held
    into = noted(found, tmp_path / "held")  # the manager is killed before it names them
    assert list(changed_since(into, mounts)) == []
    assert list(changed_since(tmp_path / "none", mounts)) == []


def test_one_that_was_closed_since_does_not_make_a_dump_fail(tmp_path: Path) -> None:
    into = noted({Path("/proc/0/fd/3"): "/data/x"}, tmp_path / "held")
    assert into.read_text() == ""
