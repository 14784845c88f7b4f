"""The last of all: when the manager has gone, the machine is as it was."""

from __future__ import annotations

from tests.support.vms import TINY, Site


async def test_nothing_is_left_when_the_last_container_and_the_manager_are_gone(
    site: Site,
) -> None:
    await site.run("last", TINY, "sleep", "1000")
    await site.cli("rm", "-f", "last")
    async with site.store() as store:
        assert await store.vms.list() == ()
        assert await store.operations.list() == ()
        for snapshot in await store.snapshots.list(include_deleted=True):
            assert await store.snapshots.leases(snapshot.id) == ()
    assert await site.stop() == 0
    assert await site.on_the_machine() == []
    assert site.temporary_files() == []
    assert list((site.storage / "vms").iterdir()) == []
    errors = site.log_lines("Traceback")
    assert errors == []
    await site.start()
