"""Pulls an image into a VM, with a timeout for a registry that sends nothing."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from warmboot.host.guest import guest_containers
from warmboot.host.guest.guest_containers import Progress
from warmboot.host.guest.guest_link import GuestLink
from warmboot.host.guest.pull_timeout import PullTimeout
from warmboot.host.network import Network, Slot


async def no_progress(_: Mapping[str, Any]) -> None:
    """Nobody is watching."""


async def pull_image(
    link: GuestLink,
    network: Network | None,
    slot: Slot | None,
    reference: str,
    progress: Progress,
    silence_s: float,
) -> None:
    """``localhost:PORT/…`` means this host's own registry.

    The way to that one port of the host is open during the pull only: before the user's container
    runs.
    """
    if network is None or slot is None:
        await guest_containers.pull_image(link, reference, progress, PullTimeout(silence_s))
        return
    timeout = PullTimeout(silence_s, partial(network.received_bytes, slot))
    registry = guest_containers.registry_of(reference)
    if registry is None:
        await guest_containers.pull_image(link, reference, progress, timeout)
        return
    _, port = registry
    await network.open_host_port(slot, port)
    try:
        await link.host_forward(port, True)
        await guest_containers.pull_image(link, reference, progress, timeout)
        await link.host_forward(port, False)
    finally:
        await network.close_host_port(slot, port)
