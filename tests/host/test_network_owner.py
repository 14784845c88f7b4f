"""A prefix is its storage root's for as long as VMs of that root run, manager or not."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.host.network_lab import PREFIX, config, world
from tests.host.test_network_mend import vmm

from warmboot.host import manager_lock
from warmboot.host.manager_lock import only_manager
from warmboot.host.network import Network
from warmboot.host.network.occupants import occupants
from warmboot.model.errors import Conflict

pytestmark = pytest.mark.root


async def test_networks_of_running_vms_are_not_another_roots_to_delete(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(manager_lock, "RUN_DIR", tmp_path / "run")
    async with world():
        network = Network(config(tmp_path / "state", pool_size=0))
        with only_manager(tmp_path / "a", "http://one", prefix=PREFIX):
            await network.start([])
            slot = await network.acquire()
        async with vmm(slot) as pid:
            found = [(one.pid, one.namespace) for one in occupants(PREFIX)]
            assert found == [(pid, f"{PREFIX}-{slot.index}")]
            with (
                pytest.raises(Conflict, match="run in the networks") as told,
                only_manager(tmp_path / "b", "http://two", prefix=PREFIX),
            ):
                pass
            assert str(pid) in told.value.details
            with only_manager(tmp_path / "a", "http://three", prefix=PREFIX):
                pass  # its own manager comes back to them
        assert occupants(PREFIX) == []
        with only_manager(tmp_path / "b", "http://four", prefix=PREFIX):
            pass  # nothing runs any more
        await network.stop(keep=False)
