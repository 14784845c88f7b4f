"""A prefix is its storage root's for as long as VMs of that root run, manager or not."""

from __future__ import annotations

from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from tests.host.network_lab import PREFIX, config, world
from tests.host.test_network_repair import vmm
from tests.support.eventually import until

from warmboot.host import manager_lock
from warmboot.host.manager_lock import only_manager
from warmboot.host.network import Network
from warmboot.host.network.namespace_processes import namespace_processes
from warmboot.model.errors import Conflict

pytestmark = pytest.mark.root


async def test_networks_of_running_vms_are_not_another_roots_to_delete(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(manager_lock, "RUN_DIR", tmp_path / "run")
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(world())
        network = Network(config(tmp_path / "state", pool_size=0))
        stack.push_async_callback(network.stop, keep=False)
        with only_manager(tmp_path / "a", "http://one", prefix=PREFIX):
            await network.start([])
            slot = await network.acquire()
        async with vmm(slot) as pid:
            there = (pid, f"{PREFIX}-{slot.index}")  # and nft, for moments
            await until(
                lambda: [(o.pid, o.namespace) for o in namespace_processes(PREFIX)] == [there]
            )
            with (
                pytest.raises(Conflict, match="run in the networks") as told,
                only_manager(tmp_path / "b", "http://two", prefix=PREFIX),
            ):
                pass
            assert str(pid) in told.value.details
            with only_manager(tmp_path / "a", "http://three", prefix=PREFIX):
                pass  # its own manager comes back to them
        await until(lambda: namespace_processes(PREFIX) == [])
        with only_manager(tmp_path / "b", "http://four", prefix=PREFIX):
            pass  # nothing runs any more
