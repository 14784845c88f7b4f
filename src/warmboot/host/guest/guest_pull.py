"""Pulls an image into a VM, with a timeout for a registry that sends nothing."""

from __future__ import annotations

from functools import partial

from warmboot.docker.pull import Progress, PullTimeout
from warmboot.docker.references import loopback_port
from warmboot.host.guest.guest_link import GuestLink
from warmboot.host.network import Network, Slot
from warmboot.model.conventions.registry_logins import DOCKER_HUB, registry_of
from warmboot.model.tenants.registry_mirror import RegistryMirror


async def pull_image(
    link: GuestLink,
    network: Network | None,
    slot: Slot | None,
    reference: str,
    progress: Progress,
    silence_s: float,
    mirror: RegistryMirror | None = None,
    platform: str = "",
) -> None:
    """``localhost:PORT/…`` means this host's own registry; what is Docker Hub's comes from
    ``mirror``, if there is one, which may be this host's own as well.

    The way to that one port of the host is open during the pull only: before the user's container
    runs.
    """
    pull = partial(link.docker.pull, reference, progress, platform=platform)
    if network is None or slot is None:
        await pull(PullTimeout(silence_s))
        return
    timeout = PullTimeout(silence_s, partial(network.received_bytes, slot))
    port = loopback_port(reference)
    if mirror is not None and registry_of(reference) == DOCKER_HUB:
        port = mirror.host_port
        await link.use_mirror(mirror)
    if port is None:
        await pull(timeout)
        return
    await network.open_host_port(slot, port)
    try:
        await link.host_forward(port, True)
        await pull(timeout)
        await link.host_forward(port, False)
    finally:
        await network.close_host_port(slot, port)
