"""Checks the prerequisites of the host's networking."""

from __future__ import annotations

import os
from pathlib import Path

from warmboot.host.network import links
from warmboot.host.network.config import NetworkConfig
from warmboot.model.errors import NetworkError
from warmboot.system.programs import look_up

_CAP_NET_ADMIN, _CAP_SYS_ADMIN = 12, 21
_PROGRAMS = {"nft": "nftables", "nsenter": "util-linux", "dnsmasq": "dnsmasq-base"}


def check_host() -> None:
    """``NetworkError`` with the remedy when this process or machine cannot do it."""
    status = Path("/proc/self/status").read_text()
    effective = int(status.split("CapEff:")[1].split()[0], 16)
    for number, name in ((_CAP_NET_ADMIN, "CAP_NET_ADMIN"), (_CAP_SYS_ADMIN, "CAP_SYS_ADMIN")):
        if not effective >> number & 1:
            raise NetworkError(
                "networks for VMs need root",
                details=f"{name} is missing",
                resolution="start the manager as root, or try it without, with "
                "MANAGER_HYPERVISOR=simulated",
            )
    try:
        os.close(os.open(links.TUN_DEVICE, os.O_RDWR | os.O_CLOEXEC))
    except OSError as error:
        raise NetworkError(
            f"{links.TUN_DEVICE} cannot be opened",
            details=str(error),
            resolution="load the kernel module: modprobe tun",
        ) from error
    for program, package in _PROGRAMS.items():
        if look_up(program) is None:
            raise NetworkError(
                f"the program {program} is missing", resolution=f"apt-get install {package}"
            )


def check_subnet(config: NetworkConfig, link_names: list[str]) -> None:
    """``NetworkError`` when the host has another use for our addresses. Blocks."""
    ours = frozenset(
        name for name in link_names if name == config.dns_link or config.index_of(name) is not None
    )
    for link, network in links.networks_of_others(ours):
        if network.overlaps(config.network):
            raise NetworkError(
                f"the subnet {config.subnet} is in use on this host",
                details=f"{link} has {network}",
                resolution="choose another subnet for VMs",
            )
