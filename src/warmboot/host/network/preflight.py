"""What must be there before anything is made, and the lock that keeps a second manager out."""

from __future__ import annotations

import fcntl
import os
import shutil
from pathlib import Path

from warmboot.host.network import links
from warmboot.host.network.config import NetworkConfig
from warmboot.model.errors import Conflict, NetworkError

_CAP_NET_ADMIN, _CAP_SYS_ADMIN = 12, 21
_LOCK_DIR = Path("/run/warmboot")
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
                resolution="start the manager as root",
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
        if shutil.which(program) is None and not Path("/usr/sbin", program).exists():
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


def lock(config: NetworkConfig) -> int:
    """A descriptor that holds the prefix for this process; the kernel frees it with the process.

    ``Conflict`` when another manager has it.
    """
    _LOCK_DIR.mkdir(mode=0o755, exist_ok=True)
    path = _LOCK_DIR / f"network-{config.prefix}.lock"
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(fd)
        raise Conflict(
            f"another manager runs with the network prefix {config.prefix!r}",
            details=f"it holds {path}",
            resolution="stop it, or give this one another prefix and subnet",
        ) from error
    return fd
