"""What can be restored where, and which checkpoints a retention gives up."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from uuid import uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from warmboot.model.checkpoint import (
    ARCHIVE_FORMAT,
    CHECKPOINT_TRANSITIONS,
    ArchiveManifest,
    Checkpoint,
    CheckpointState,
    Versions,
    archive_obstacles,
    check_checkpoint_name,
    criu_needed,
    criu_obstacles,
    driver_obstacles,
    engine_obstacles,
    network_obstacles,
    obstacles,
    outdated,
    parse_version,
    runtime_obstacles,
)
from warmboot.model.errors import InvalidName

HERE = Versions("27.5.1", "4.2.1", "6.18.44-fc", "x86_64")
NOW = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ("20.10.24+dfsg1", (20, 10, 24)),
        ("26.0", (26, 0, 0)),
        ("v4.2.1", (4, 2, 1)),
        ("6.18.44-fc-v669", (6, 18, 44)),
        ("dev", ()),
        ("", ()),
    ],
)
def test_versions_are_read(text: str, version: tuple[int, ...]) -> None:
    assert parse_version(text) == version


@pytest.mark.parametrize(
    ("engine", "host", "bridge"),
    [
        ("20.10.24+dfsg1", True, False),
        ("24.0.9", True, False),
        ("25.0.0", False, False),
        ("25.0.3", False, False),
        ("25.0.4", True, False),
        ("26.0.0", True, False),
        ("26.0.1", True, True),
        ("26.1.5+dfsg1", True, True),
        ("27.0.0", True, True),
        ("27.5.1", True, True),
        ("28.0.0", True, False),
        ("29.1.0", True, False),
        ("unknown", True, False),
    ],
)
def test_which_engine_restores_on_which_network(engine: str, host: bool, bridge: bool) -> None:
    assert (not obstacles(engine, "host")) is host
    assert (not obstacles(engine, "bridge")) is bridge


def test_a_tty_and_auto_remove_are_refused_everywhere() -> None:
    assert len(obstacles("27.5.1", "host", tty=True, auto_remove=True)) == 2


@given(st.from_regex(r"\d{1,2}\.\d{1,2}\.\d{1,2}", fullmatch=True), st.text(min_size=1))
def test_every_obstacle_has_a_reason_and_a_remedy(engine: str, network: str) -> None:
    for obstacle in obstacles(engine, network, tty=True, auto_remove=True):
        assert obstacle.reason
        assert obstacle.remedy


def test_on_the_runtime_of_workers_networks_that_a_plain_start_makes_are_well() -> None:
    for network in ("host", "none", "bridge", "own"):
        assert runtime_obstacles(network) == ()
    assert driver_obstacles("own", "bridge") == ()
    (obstacle,) = driver_obstacles("own", "macvlan")
    assert "'macvlan'" in obstacle.reason
    assert "docker network create" in obstacle.remedy
    for network in ("container:other", ""):
        (obstacle,) = runtime_obstacles(network)
        assert repr(network) in obstacle.reason
        assert "host" in obstacle.remedy


def test_only_on_the_hosts_network_somebody_can_listen_for_a_paused_worker() -> None:
    assert runtime_obstacles("host", wake_on=(80,)) == ()
    (obstacle,) = runtime_obstacles("none", wake_on=(80,))
    assert "wake" in obstacle.reason


def test_a_worker_that_removes_itself_is_never_well() -> None:
    (obstacle,) = runtime_obstacles("host", auto_remove=True)
    assert "auto-remove" in obstacle.reason


@given(st.tuples(st.integers(17, 40), st.integers(0, 12), st.integers(0, 30)))
def test_what_a_network_allows_the_host_network_allows(version: tuple[int, int, int]) -> None:
    engine = ".".join(map(str, version))
    assert network_obstacles(engine, "host") == ()
    if not obstacles(engine, "bridge"):
        assert engine_obstacles(engine) == ()


@pytest.mark.parametrize(
    ("criu", "kernel", "well"),
    [
        ("3.17.1", "6.1.0-31-amd64", True),
        ("3.17.1", "6.18.44-fc", False),
        ("4.1.1", "6.14.2", True),
        ("4.1.1", "6.16.0", False),
        ("4.2.1", "6.18.44-fc", True),
        ("", "6.1.0", False),
    ],
)
def test_which_criu_does_on_which_kernel(criu: str, kernel: str, well: bool) -> None:
    assert (not criu_obstacles(criu, kernel)) is well


@given(
    st.tuples(st.integers(5, 7), st.integers(0, 30)),
    st.tuples(st.integers(5, 7), st.integers(0, 30)),
)
def test_a_newer_kernel_never_needs_an_older_criu(
    one: tuple[int, int], two: tuple[int, int]
) -> None:
    older, newer = sorted((one, two))
    assert criu_needed("{}.{}".format(*older))[0] <= criu_needed("{}.{}".format(*newer))[0]


def manifest() -> ArchiveManifest:
    return ArchiveManifest(
        name="cp",
        created_at=NOW,
        image="app:1",
        image_digest="sha256:1",
        versions=HERE,
        network="host",
        processes=1,
        tcp_connections=0,
    )


def test_an_archive_fits_where_it_was_made() -> None:
    assert archive_obstacles(manifest(), HERE, "sha256:1") == ()


@pytest.mark.parametrize(
    "other",
    [
        replace(manifest(), format=ARCHIVE_FORMAT + 1),
        replace(manifest(), image_digest="sha256:2"),
        replace(manifest(), versions=replace(HERE, architecture="aarch64")),
        replace(manifest(), versions=replace(HERE, criu="4.3")),
        replace(manifest(), versions=replace(HERE, kernel="7.0.0")),
        replace(manifest(), network="bridge", versions=HERE),
        replace(manifest(), mounts=("/data",)),
    ],
)
def test_an_archive_that_does_not_fit_is_told_apart(other: ArchiveManifest) -> None:
    here = replace(HERE, engine="28.0.0")
    found = archive_obstacles(other, here, "sha256:1")
    assert len(found) == 1
    assert found[0].remedy


def test_an_archive_needs_the_mounts_and_the_network_that_it_had() -> None:
    had = replace(manifest(), mounts=("/a", "/b"))
    assert archive_obstacles(had, HERE, "sha256:1", mounts=("/b", "/a")) == ()
    (found,) = archive_obstacles(had, HERE, "sha256:1", mounts=("/b", "/c"))
    assert found.reason == "the archive needs a mount at /a and it knows no mount at /c"
    joined = replace(manifest(), network="br0")
    assert archive_obstacles(joined, HERE, "sha256:1", network="br0") == ()
    (found,) = archive_obstacles(joined, HERE, "sha256:1")
    assert "'br0'" in found.remedy


@pytest.mark.parametrize("engine", ["20.10.24", "26.1.5", "28.5.2"])
@pytest.mark.parametrize("network", ["host", "bridge", "none"])
def test_an_archive_fits_into_a_worker_on_the_runtime_whatever_its_engine(
    network: str, engine: str
) -> None:
    here, its = replace(HERE, engine=engine), replace(manifest(), network=network)
    fits = partial(archive_obstacles, its, here, "sha256:1", network=network)
    assert fits(runtime="warmboot") == ()
    of_the_engine = network == "host" or engine == "26.1.5"
    assert bool(fits()) is not of_the_engine


def test_an_archive_fits_on_a_network_that_somebody_has_created_on_the_runtime_only() -> None:
    its = replace(manifest(), network="br0")
    fits = partial(archive_obstacles, its, replace(HERE, engine="28.0.0"), "sha256:1")
    assert fits(network="br0", runtime="warmboot") == ()
    (found,) = fits(network="br0")
    assert "'br0'" in found.reason


@pytest.mark.parametrize("name", ["", "a", "a/b", "..", "a..b", "x" * 64, "\n"])
def test_a_bad_checkpoint_name_is_refused(name: str) -> None:
    with pytest.raises(InvalidName):
        check_checkpoint_name(name)


def test_a_deleted_checkpoint_stays_deleted() -> None:
    assert not CHECKPOINT_TRANSITIONS.table[CheckpointState.DELETED]


def a_checkpoint(minute: int, automatic: bool, state: CheckpointState) -> Checkpoint:
    return Checkpoint(
        id=uuid4(),
        worker_id=uuid4(),
        name=f"cp-{minute}",
        state=state,
        created_at=NOW + timedelta(minutes=minute),
        versions=HERE,
        image_digest="sha256:1",
        automatic=automatic,
    )


checkpoints = st.lists(
    st.builds(
        a_checkpoint, st.integers(0, 500), st.booleans(), st.sampled_from(list(CheckpointState))
    ),
    max_size=12,
)


@given(checkpoints, st.integers(1, 5))
def test_retention_keeps_the_newest_automatic_ones_and_all_others(
    found: list[Checkpoint], keep: int
) -> None:
    gone = outdated(found, keep)
    assert all(c.automatic and c.state is CheckpointState.READY for c in gone)
    left = [c for c in found if c.automatic and c.state is CheckpointState.READY and c not in gone]
    assert len(left) == min(keep, len(left) + len(gone))
    assert all(a.created_at <= b.created_at for a in gone for b in left)
