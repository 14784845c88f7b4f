"""Runtime images and their snapshots on the command line."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from tests.cli.conftest import Cli, Served

from warmboot.model.errors import CanaryFailed


def test_runtime_images_and_snapshots(cli: Cli, tmp_path: Path) -> None:
    image_id = cli("runtime", "register", str(tmp_path), "--name", "trixie").stdout.strip()
    assert cli("runtime", "ls", "-q").stdout.strip() == image_id
    assert re.search(r"(?m)^[0-9a-f]+ +trixie +37.0 MiB ", cli("runtime", "ls").stdout)
    assert re.search(r"(?m)^stored +37.0 MiB$", cli("runtime", "show", "trixie").stdout)
    assert json.loads(cli("runtime", "show", "trixie", "--json").stdout)["id"] == image_id
    built = cli("snapshot", "create", "trixie", "-m", "512m").stdout.strip()
    listed = json.loads(cli("snapshot", "ls", "--json").stdout)
    assert [(item["id"], item["state"]) for item in listed] == [(built, "ready")]
    assert listed[0]["shape"] == {"vcpus": 2, "memory_mib": 512}
    assert "2 × 512 MiB" in cli("snapshot", "ls").stdout
    assert "2 vCPU, 512 MiB" in cli("snapshot", "show", built[:8]).stdout
    shown = cli("snapshot", "show", built[:8]).stdout
    assert "version        1\nbuilt          as it was asked for\n" in shown
    rebuilt = cli("snapshot", "rebuild", built[:8]).stdout.strip()
    assert rebuilt != built
    assert cli("snapshot", "rm", built[:8]).stdout == f"{built[:8]}\n"
    assert "deleted" in cli("snapshot", "ls", "-a").stdout
    in_use = cli("runtime", "rm", "trixie")
    assert in_use.returncode == 1
    assert "snapshots" in in_use.stderr
    assert "warmboot snapshot ls" in cli("snapshot", "show", "zzz").stderr


def test_images_of_registries_are_prepared(cli: Cli, tmp_path: Path) -> None:
    cli("runtime", "register", str(tmp_path), "--name", "one", "--no-snapshot")
    first = cli("image", "prepare", "redis", "-m", "512m").stdout.strip()
    again = cli("image", "prepare", "redis:latest", "--runtime", "one").stdout.strip()
    (listed,) = json.loads(cli("image", "ls", "--json").stdout)
    assert (listed["id"], listed["depth"]) == (again, "image")
    assert first != again
    line = cli("image", "ls").stdout.splitlines()[1]
    assert line.split()[:4] == ["redis:latest", again[:8], "one", "ready"]
    assert re.search(r"(?m)^image +redis:latest$", cli("snapshot", "show", again).stdout)
    assert "image" in cli("snapshot", "ls").stdout.splitlines()[1].split()
    assert cli("image", "ls", "-q").stdout.split() == [again]
    done = cli("image", "rm", "nginx", "redis")
    assert (done.stdout.split(), done.returncode) == (["redis"], 1)
    assert "there is no prepared image 'nginx'" in done.stderr
    assert cli("image", "ls", "-q").stdout == ""
    cli("image", "prepare", "redis")
    assert cli("image", "rm", *cli("image", "ls", "-q").stdout.split()).returncode == 0
    assert cli("image", "ls", "-q").stdout == ""
    assert cli("image", "prepare", "redis", "-m", "x").returncode == 2


def test_images_and_snapshots_are_removed_together(cli: Cli, tmp_path: Path) -> None:
    cli("runtime", "register", str(tmp_path), "--name", "one", "--no-snapshot")
    built = [cli("snapshot", "create", "one", "-m", size).stdout.strip() for size in ("1g", "2g")]
    done = cli("snapshot", "rm", built[0], "nope", built[1])
    assert (done.stdout.split(), done.returncode) == (built, 1)
    assert "there is no runtime snapshot 'nope'" in done.stderr
    assert cli("snapshot", "ls", "-q").stdout == ""
    none = cli("runtime", "rm", "two", "three")
    assert ("'two'" in none.stderr, "'three'" in none.stderr) == (True, True)


def test_files_that_are_registered_keep_their_name_and_say_it(cli: Cli, tmp_path: Path) -> None:
    first = cli("runtime", "register", str(tmp_path), "--name", "one")
    assert "already" not in first.stderr
    again = cli("runtime", "register", str(tmp_path), "--name", "two")
    assert again.stdout == first.stdout
    assert "these files are registered already, under the name one" in again.stderr


def test_a_kernel_alone_is_no_image(cli: Cli) -> None:
    done = cli("runtime", "register", "--kernel", "/boot/vmlinuz")
    assert done.returncode == 2
    assert "--kernel and --rootfs" in done.stderr


def test_a_build_that_fails_says_why_though_nothing_is_left_of_a_rebuild(
    cli: Cli, served: Served, tmp_path: Path
) -> None:
    cli("runtime", "register", str(tmp_path), "--name", "trixie")
    good = cli("snapshot", "create", "trixie").stdout.strip()
    served.fakes.snapshots.build_fails = CanaryFailed(
        "the new runtime snapshot failed its test", details="no Docker", resolution="try again"
    )
    for words in (("create", "trixie"), ("rebuild", good)):
        failed = cli("snapshot", *words)
        assert (failed.returncode, failed.stdout) == (1, "")
        assert "error: the new runtime snapshot failed its test" in failed.stderr
        assert "next: try again" in failed.stderr


def test_versions_are_weighed_pinned_and_compared(cli: Cli, served: Served, tmp_path: Path) -> None:
    served.fakes.images.snapshots = served.fakes.snapshots
    registered = cli("runtime", "register", str(tmp_path), "--name", "trixie")
    assert "its snapshot" in registered.stderr
    assert "is being built" in registered.stderr
    again = cli("runtime", "register", str(tmp_path), "--name", "trixie")
    assert again.stdout == registered.stdout
    assert "already" in again.stderr
    second = cli("snapshot", "create", "trixie").stdout.strip()
    listed = json.loads(cli("snapshot", "ls", "--json").stdout)
    assert sorted(item["version"] for item in listed) == [1, 2]
    assert cli("snapshot", "weight", second[:8], "2.5").stdout.strip() == second
    assert cli("snapshot", "pin", second[:8]).returncode == 0
    shown = cli("snapshot", "show", second[:8]).stdout
    assert re.search(r"weight +2\.5", shown)
    assert re.search(r"pinned +yes", shown)
    assert re.search(r"usable here +yes", shown)
    assert "2.5 pinned" in cli("snapshot", "ls").stdout
    assert cli("snapshot", "unpin", second[:8]).returncode == 0
    assert "pinned" not in cli("snapshot", "ls").stdout
    compared = cli("snapshot", "stats", "trixie")
    assert [line.split()[:2][1] for line in compared.stdout.splitlines()[1:]] == ["trixie"] * 2
    assert {one["version"] for one in json.loads(cli("snapshot", "stats", "--json").stdout)} == {
        1,
        2,
    }
    for weight, words in (
        ("many", "is not a number"),
        ("-1", "is not a weight"),
        ("nan", "is not a weight"),
    ):
        refused = cli("snapshot", "weight", second[:8], "--", weight)
        assert refused.returncode == 2
        assert words in refused.stderr
    too_much = cli("snapshot", "weight", second[:8], "1e9")
    assert too_much.returncode == 1
    assert "1000000" in too_much.stderr
    cli("snapshot", "rm", second[:8])
    deleted = cli("snapshot", "pin", second[:8])
    assert deleted.returncode == 1
    assert "deleted" in deleted.stderr


def test_an_image_can_be_registered_without_a_snapshot(
    cli: Cli, served: Served, tmp_path: Path
) -> None:
    served.fakes.images.snapshots = served.fakes.snapshots
    registered = cli("runtime", "register", str(tmp_path), "--name", "trixie", "--no-snapshot")
    assert registered.stderr == ""
    assert cli("snapshot", "ls", "-q").stdout == ""


def test_a_snapshot_shows_what_becomes_of_its_rebuilds(
    cli: Cli, served: Served, tmp_path: Path
) -> None:
    served.fakes.images.snapshots = served.fakes.snapshots
    cli("runtime", "register", str(tmp_path), "--name", "trixie")
    (row,) = served.fakes.snapshots.rows.values()
    assert not re.search(r"rebuilds +\S", cli("snapshot", "show", str(row.id)).stdout)
    for not_before, words in (
        (datetime(2030, 1, 2, 3, 4, 5, tzinfo=UTC), "not before 2030-01-02 03:04:05 UTC"),
        (None, "given up; `warmboot snapshot rebuild"),
    ):
        served.fakes.snapshots.rows[row.id] = replace(
            row, rebuild_failures=2, rebuild_not_before=not_before
        )
        shown = cli("snapshot", "show", str(row.id)).stdout
        assert "2 failed in a row" in shown
        assert words in shown
