"""Settings of the host's networking, and the slot: one VM's share of it.

Everything that belongs to a slot follows from the prefix, the subnet and the slot's index, so that
what a killed manager left behind is found by its name alone.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from ipaddress import AddressValueError, IPv4Address, IPv4Network, NetmaskValueError
from pathlib import Path
from typing import Any

from warmboot.model.errors import InvalidRequest, NetworkError

NETNS_DIR = Path("/run/netns")

# The same in every namespace: what a guest was snapshotted with is true wherever it is restored.
TAP_NAME = "tap0"
UPLINK_NAME = "up0"
TAP_MAC = "06:00:c6:12:00:01"
GUEST_MAC = "06:00:c6:12:00:02"
GUEST_NET = IPv4Network("198.18.0.0/30")
GATEWAY_IP = "198.18.0.1"
GUEST_IP = "198.18.0.2"

# What the rules of a namespace put on its guest's packets; none is routed without.
ROUTED_MARK = 1

# Where the guest's kernel finds the host's folders (see ``guest.folders``), in its namespace.
FOLDERS_PORT = 917

# Not 53: a name server of the user's that listens on every address would hold it.
DNS_PORT = 10053

_PREFIX = re.compile(r"[a-z][a-z0-9]{0,7}")
_MAX_SLOTS = 99_999  # five digits: prefix, dash and index fit the kernel's 15 characters


@dataclass(frozen=True, slots=True)
class NetworkConfig:
    """Frozen settings, checked when made.

    ``prefix`` begins the name of everything that is made on the host. ``subnet`` gives a /30 to
    each slot (its first /30 holds the name server's address) and must not overlap with a network
    the host knows. ``resolv_conf`` names the upstream name servers. ``publish_address`` is used
    for a port mapping with an empty ``host_ip``. The VMM of slot *n* runs as user ``uid_base + n``,
    the name server as ``uid_base``; two managers of one host have different bases (see ``uids``).
    Raises ``InvalidRequest``.
    """

    state_dir: Path
    prefix: str = "wb"
    subnet: str = "198.19.0.0/18"
    pool_size: int = 4
    resolv_conf: Path = Path("/etc/resolv.conf")
    publish_address: str = "127.0.0.1"
    uid_base: int = 620_000

    def __post_init__(self) -> None:
        if not _PREFIX.fullmatch(self.prefix):
            raise InvalidRequest(
                f"{self.prefix!r} is not a valid network prefix",
                resolution="use a lower-case letter, then at most 7 lower-case letters or digits",
            )
        try:
            subnet = IPv4Network(self.subnet)
        except (AddressValueError, NetmaskValueError, ValueError) as error:
            raise InvalidRequest(
                f"{self.subnet!r} is not an IPv4 network",
                details=str(error),
                resolution="use one such as 198.19.0.0/18",
            ) from error
        if not 8 <= subnet.prefixlen <= 29 or subnet.overlaps(GUEST_NET):
            raise InvalidRequest(
                f"the network {subnet} cannot be used for VMs",
                details=f"it must be of /8 to /29 and not overlap with {GUEST_NET}",
                resolution="choose another, for example 198.19.0.0/18",
            )
        if self.pool_size < 0:
            raise InvalidRequest("the pool size is negative", resolution="use 0 or more")

    @property
    def network(self) -> IPv4Network:
        return IPv4Network(self.subnet)

    @property
    def engine_network(self) -> IPv4Network:
        """Loopback addresses of this host, one for each engine: see ``rules``.

        Two managers with different subnets have different ones; 127.0.0.0/16, where other programs
        have theirs, is never in it.
        """
        base = 127 << 24 | int(self.network.network_address) & 0xFFFFFF
        if not base & 0xFF0000:
            base |= 0x800000
        return IPv4Network((base, max(self.network.prefixlen, 16)))

    @property
    def capacity(self) -> int:
        """How many slots there can be; their indexes are 1 to this number."""
        return min(self.network.num_addresses // 4 - 1, _MAX_SLOTS)

    @property
    def table(self) -> str:
        """The name of our nftables table, on the host and in every namespace."""
        return f"{self.prefix}_net"

    @property
    def dns_link(self) -> str:
        return f"{self.prefix}-dns"

    @property
    def dns_ip(self) -> str:
        return str(self.network[1])

    def slot(self, index: int) -> Slot:
        """The slot with this index, whether it exists or not."""
        first = int(self.network[4 * index])
        name = f"{self.prefix}-{index}"
        return Slot(
            index=index,
            namespace=NETNS_DIR / name,
            tap=TAP_NAME,
            guest_mac=GUEST_MAC,
            guest_ip=GUEST_IP,
            gateway_ip=GATEWAY_IP,
            host_ip=str(IPv4Address(first + 1)),
            ns_ip=str(IPv4Address(first + 2)),
            veth=name,
            uid=self.uid_base + index,
        )

    def index_of(self, name: str) -> int | None:
        """The index in a namespace's or link's name, or ``None`` if the name is not of ours."""
        match = re.fullmatch(rf"{self.prefix}-([1-9]\d{{0,4}})", name)
        return int(match[1]) if match else None


@dataclass(frozen=True, slots=True)
class Slot:
    """One VM's network: namespace, TAP, addresses, the veth's host side, the VMM's uid.

    ``host_ip`` and ``ns_ip`` are the two ends of the veth, as seen from the host. ``serial`` tells
    it from an earlier or later slot with the same index, and so with the same names.
    """

    index: int
    namespace: Path
    tap: str
    guest_mac: str
    guest_ip: str
    gateway_ip: str
    host_ip: str
    ns_ip: str
    veth: str
    uid: int
    serial: str = ""

    def as_dict(self) -> dict[str, Any]:
        """The slot in JSON types; ``from_dict`` reads it back."""
        return {**asdict(self), "namespace": str(self.namespace)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Slot:
        try:
            return cls(**{**data, "namespace": Path(data["namespace"])})
        except (TypeError, LookupError) as error:
            raise NetworkError(
                "the network slot of a VM cannot be read",
                details=f"{dict(data)!r}: {error}",
                resolution="run the version of warmboot that wrote it, or restore a backup",
            ) from error
