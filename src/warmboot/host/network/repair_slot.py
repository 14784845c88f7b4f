"""Creates missing parts of a network slot again, around the VM that runs in it.

A namespace lives as long as a process is in it: when its name in ``/run/netns`` is gone, the VMM
still has it, with TAP, addresses and routes, and it gets its name back. When the link to the host
is gone, another one is made. Nothing of it interrupts the VM.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from pyroute2 import IPRoute

from warmboot.host.network import links, namespaces
from warmboot.host.network.config import UPLINK_NAME, Slot
from warmboot.model.errors import NetworkError


async def repair(slot: Slot, vmm_pid: int | None, link_names: Sequence[str]) -> list[str]:
    """Make again what is missing; what that was. ``NetworkError`` if it cannot be."""
    repaired = []
    if not await namespaces.in_thread(partial(namespaces.is_one, slot.namespace)):
        await namespaces.in_thread(partial(_name_again, slot, vmm_pid))
        repaired.append(f"the namespace {slot.namespace.name}")
    if slot.veth not in link_names:
        host_ns = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        try:
            await namespaces.in_thread(partial(_link_again, slot, host_ns), slot.namespace)
        finally:
            os.close(host_ns)
        await namespaces.in_thread(partial(_set_up_host_side, slot))
        repaired.append(f"the link {slot.veth}")
    return repaired


def _name_again(slot: Slot, vmm_pid: int | None) -> None:
    if vmm_pid is None:
        raise _cannot(slot, "it has no process that still has the namespace")
    theirs = Path(f"/proc/{vmm_pid}/ns/net")
    with links.translated(f"name the namespace {slot.namespace.name} again"):
        if theirs.stat().st_ino == Path("/proc/thread-self/ns/net").stat().st_ino:
            raise _cannot(slot, f"its VMM (pid {vmm_pid}) is in the host's own namespace")
        namespaces.delete(slot.namespace)  # a name that leads nowhere
        namespaces.pin(theirs, slot.namespace)


def _link_again(slot: Slot, host_ns: int) -> None:
    with links.translated(f"make the link {slot.veth} again"), IPRoute() as ip:
        if not ip.link_lookup(ifname=slot.tap):
            raise _cannot(slot, f"its {slot.tap} is gone, too")
        for index in ip.link_lookup(ifname=UPLINK_NAME):
            ip.link("del", index=index)
        links.build_uplink(ip, slot, host_ns)


def _set_up_host_side(slot: Slot) -> None:
    with links.translated(f"set up the link {slot.veth}"), IPRoute() as host:
        links.set_up_host_side(host, slot)


def _cannot(slot: Slot, why: str) -> NetworkError:
    return NetworkError(
        f"the network {slot.veth} of a VM that runs is gone",
        details=why,
        resolution="its container continues without a network: stop it and start it again to give "
        "it another",
    )
