"""Files of a snapshot that are not what they were."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID

import pytest
from tests.e2e.conftest import Archive
from tests.e2e.copies import add_copy
from tests.support.vms import VM_TIMEOUT_S, Site, eventually

from warmboot.model.runtime_snapshot import (
    DEFAULT_WEIGHT,
    DISK_FILE,
    MEMORY_FILE,
    STATE_FILE,
    SnapshotState,
)


@pytest.fixture(scope="module")
async def spare(site: Site) -> AsyncIterator[UUID]:
    """A second version, to be damaged; meanwhile the shared one only waits."""
    async with site.store() as store:
        (shared,) = await store.snapshots.list()
        copy = await add_copy(site, shared)
        await store.snapshots.set_traits(shared.id, weight=0)
        yield copy.id
        await store.snapshots.set_traits(shared.id, weight=DEFAULT_WEIGHT)
    async with site.client() as client:
        await client.snapshots.delete(str(copy.id))


@contextlib.contextmanager
def _damaged(path: Path, how: str) -> Iterator[None]:
    """``path`` gone, or with its last byte missing, or one byte changed; as it was afterwards."""
    if how == "removed":
        aside = path.rename(path.parents[3] / path.name)
        yield
        aside.rename(path)
        return
    size = path.stat().st_size
    offset = size - 1 if how == "truncated" else size // 2
    with path.open("r+b") as file:
        file.seek(offset)
        original = file.read(1)
        if how == "truncated":
            file.truncate(size - 1)
        else:
            file.seek(offset)
            file.write(bytes([original[0] ^ 0xFF]))
    yield
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(original)


@pytest.mark.parametrize(
    ("name", "how"),
    [
        # Each file and each kind; any kind in any file: test_snapshot_damage.
        (MEMORY_FILE, "truncated"),
        (DISK_FILE, "tampered"),
        (STATE_FILE, "removed"),
    ],
)
async def test_a_damaged_snapshot_is_not_restored(
    site: Site, spare: UUID, archive: Archive, name: str, how: str
) -> None:
    async with site.store() as store, site.client() as client:
        folder = (await store.snapshots.get(spare)).snapshot_path
        with _damaged(folder / name, how):
            archive_id = await client.archives.upload(archive.path)
            container_id = await client.containers.create(image=archive.name, archive=archive_id)

            found = await client.containers.wait(container_id, "running", VM_TIMEOUT_S)
            (attempt,) = found.raw["boot_attempts"]
            assert (attempt["snapshot_id"], attempt["reason"]) == (str(spare), "snapshot_damaged")
            assert f"the snapshot {spare} is damaged: {name} " in attempt["details"]
            # The other version has served instead.
            assert (found.boot_method, found.fallback_reason) == ("warm", None)
            assert found.raw["runtime_snapshot_id"] not in (None, str(spare))
            marked = await client.snapshots.get(str(spare))
            assert (marked.state, marked.consecutive_failures) == ("unhealthy", 1)
            assert marked.error is not None
            assert f"warmboot snapshot rebuild {spare}" in marked.error["resolution"]

            async def successor() -> str | None:
                known = await client.snapshots.list()
                return next((one.id for one in known if one.replaces == str(spare)), None)

            rebuild = await eventually(successor, "a rebuild begins")
            # Enough is seen; the tests of housekeeping follow one to its end.
            await client.containers.delete(container_id, force=True)
            await client.snapshots.delete(rebuild)
        assert site.vmms() == []
        assert await store.operations.list() == ()
        assert site.temporary_files() == []
        await store.snapshots.record_success(spare, datetime.now(UTC))
        await store.snapshots.set_state(spare, SnapshotState.READY)
