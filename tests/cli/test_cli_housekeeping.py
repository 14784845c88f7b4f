"""``warmboot gc``, ``snapshot compress`` and ``unpack``, as a user runs them."""

from __future__ import annotations

import json
from pathlib import Path
from uuid import uuid4

from tests.cli.conftest import Cli, Served

from warmboot.model.errors import DiskFull
from warmboot.model.garbage import Garbage, Kind, Why

OLD = uuid4()
FOUND = (
    Garbage(Kind.SNAPSHOT, str(OLD), Why.UNUSED, 400 << 20, Path("/srv/fc/s"), OLD),
    Garbage(Kind.VM_FOLDER, "vm-12345678", Why.ORPHAN, 1 << 20, Path("/srv/fc/vms/vm-12345678")),
)


def test_a_dry_run_shows_what_why_and_how_much(cli: Cli, served: Served) -> None:
    served.fakes.garbage.waiting = FOUND
    done = cli("gc", "--dry-run")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].split() == ["WHAT", "NAME", "SIZE", "WHY"]
    assert lines[1].split() == ["snapshot", str(OLD)[:8], "400.0", "MiB", *WHY.split()]
    assert lines[2].split()[:2] == ["vm-folder", "vm-12345678"]
    assert lines[-1] == "2 things, would free 401.0 MiB"
    assert served.fakes.garbage.waiting == FOUND


WHY = "unused for too long"


def test_gc_collects_and_says_what_stays(cli: Cli, served: Served) -> None:
    served.fakes.garbage.waiting = FOUND[:1]
    served.fakes.garbage.kept = FOUND[1:]
    done = cli("gc")
    assert "stays this time: nobody's" in done.stdout
    assert done.stdout.splitlines()[-1] == "1 thing, freed 400.0 MiB"
    assert not served.fakes.garbage.waiting


def test_gc_with_nothing_to_do_says_so(cli: Cli) -> None:
    assert cli("gc").stdout == "nothing to remove\n"


def test_gc_for_programs(cli: Cli, served: Served) -> None:
    served.fakes.garbage.waiting = FOUND
    document = json.loads(cli("gc", "-n", "--json").stdout)
    assert document["dry_run"] is True
    assert [one["kind"] for one in document["removed"]] == ["snapshot", "vm-folder"]


def made(cli: Cli, served: Served) -> str:
    served.fakes.snapshots.build_s = 0
    cli("runtime", "register", "/tmp", "--name", "default")
    known = cli("snapshot", "ls", "-q").stdout.split()
    return known[0] if known else cli("snapshot", "create", "default").stdout.strip()


def test_a_snapshot_is_compressed_and_unpacked(cli: Cli, served: Served) -> None:
    snapshot = made(cli, served)
    for verb, shown in (("compress", "compressed, 1000 B"), ("unpack", "plain")):
        done = cli("snapshot", verb, snapshot[:8])
        assert (done.returncode, done.stderr) == (0, ""), done.stderr
        assert done.stdout.startswith(snapshot[:8])
        compressed = json.loads(cli("snapshot", "show", snapshot, "--json").stdout)["metadata"]
        assert compressed["compressed"] is (verb == "compress")
        if verb == "compress":
            assert shown in cli("snapshot", "show", snapshot).stdout
    again = cli("snapshot", "unpack", snapshot)
    assert again.returncode == 0, "what is so already is fine"


def test_a_compression_that_fails_says_why_and_what_next(cli: Cli, served: Served) -> None:
    snapshot = made(cli, served)
    served.fakes.forms.error = DiskFull("only 3 MiB are free", resolution="free some space")
    done = cli("snapshot", "compress", snapshot)
    assert done.returncode == 1
    assert "only 3 MiB are free" in done.stderr
    assert "next: free some space" in done.stderr
    detached = cli("snapshot", "compress", "-d", snapshot)
    assert (detached.returncode, detached.stderr) == (0, "")
