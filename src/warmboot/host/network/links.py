"""Links, addresses, routes and TAPs of slots, over netlink and /dev/net/tun.

    host ── <prefix>-<n> ══ veth ══ up0 ── namespace <prefix>-<n> ── tap0 ── the guest
            host_ip/30              ns_ip/30                    198.18.0.1/30  198.18.0.2

All functions block for milliseconds, and are called in threads of their own.
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import IPv4Network
from pathlib import Path

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from warmboot.host.network import namespaces
from warmboot.host.network.config import (
    GUEST_NET,
    ROUTED_MARK,
    TAP_MAC,
    TAP_NAME,
    UPLINK_NAME,
    Slot,
)
from warmboot.model.errors import NetworkError

TUN_DEVICE = Path("/dev/net/tun")

_TUNSETIFF, _TUNSETPERSIST = 0x400454CA, 0x400454CB
_TUNSETOWNER, _TUNSETGROUP = 0x400454CC, 0x400454CE
_IFF_TUN, _IFF_TAP, _IFF_NO_PI, _IFF_VNET_HDR = 0x0001, 0x0002, 0x1000, 0x4000
_NUD_PERMANENT = 0x80
_ENODEV = 19
_RT_TABLE_MAIN = 254
_HALF_CLOSED_S = 432_000  # five days, as the kernel has it for a stream that is open both ways


@contextmanager
def translated(what: str) -> Iterator[None]:
    """Raise ``NetworkError`` for what netlink and the kernel refuse."""
    try:
        yield
    except NetlinkError as error:
        raise NetworkError(f"cannot {what}", details=str(error.args[-1])) from error
    except OSError as error:
        raise NetworkError(f"cannot {what}", details=str(error)) from error


def sysctl(key: str, value: int, *, optional: bool = False) -> None:
    """Set ``net.<key>`` (with slashes) in the calling thread's namespace."""
    path = Path("/proc/sys/net", key)
    try:
        path.write_text(f"{value}\n")
    except FileNotFoundError:
        if not optional:  # a kernel without IPv6 has nothing to turn off
            raise


def remember_half_closed() -> None:
    """In a namespace: who has ended its sending may wait for the end of an answer for days.

    The kernel's own limit is a minute. What comes after it is taken for a new connection, and a
    guest may not make any to us: `docker run IMAGE sleep 61` would never see its end.
    """
    for state in ("fin_wait", "close_wait"):
        sysctl(f"netfilter/nf_conntrack_tcp_timeout_{state}", _HALF_CLOSED_S)


def _open_tun(name: str, flags: int) -> int:
    fd = os.open(TUN_DEVICE, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        request = struct.pack("16sH22x", name.encode(), flags | _IFF_NO_PI)
        fcntl.ioctl(fd, _TUNSETIFF, request)
    except OSError:
        os.close(fd)
        raise
    return fd


def open_tap(name: str) -> int:
    """A non-blocking descriptor of an existing TAP in the calling thread's namespace.

    Frames carry the virtio-net header (``IFF_VNET_HDR``), as QEMU's ``tap,fd=`` expects it.
    """
    return _open_tun(name, _IFF_TAP | _IFF_VNET_HDR)


def _make_tap(name: str, uid: int) -> None:
    fd = open_tap(name)
    try:
        fcntl.ioctl(fd, _TUNSETOWNER, uid)
        fcntl.ioctl(fd, _TUNSETGROUP, uid)
        fcntl.ioctl(fd, _TUNSETPERSIST, 1)
    finally:
        os.close(fd)


def _index(ip: IPRoute, name: str) -> int:
    found: list[int] = ip.link_lookup(ifname=name)
    if not found:
        raise OSError(_ENODEV, f"no link {name}")
    return found[0]


def build_slot(slot: Slot) -> None:
    """Namespace, TAP and veth pair of a slot; all but its rules. Moves the calling thread."""
    with translated(f"make the network of VM slot {slot.veth}"):
        _build_slot(slot)


def _build_slot(slot: Slot) -> None:
    host_ns = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        with IPRoute() as host:  # its socket stays on the host when the thread moves
            namespaces.create(slot.namespace)
            with IPRoute() as ip:
                _build_inside(ip, slot, host_ns)
            set_up_host_side(host, slot)
    finally:
        os.close(host_ns)


def set_up_host_side(host: IPRoute, slot: Slot) -> None:
    index = _index(host, slot.veth)
    host.addr("add", index=index, address=slot.host_ip, prefixlen=30)
    host.link("set", index=index, state="up")


def _build_inside(ip: IPRoute, slot: Slot, host_ns: int) -> None:
    for scope in ("all", "default"):
        sysctl(f"ipv6/conf/{scope}/disable_ipv6", 1, optional=True)
        # What systemd sets on the host would be inherited; ``raw`` in ``rules`` is stricter, and
        # the way back of what is led to a guest looks closed, since it has no mark.
        sysctl(f"ipv4/conf/{scope}/rp_filter", 0)
    ip.link("set", index=1, state="up")

    _make_tap(slot.tap, slot.uid)
    tap = _index(ip, slot.tap)
    ip.link("set", index=tap, address=TAP_MAC)
    ip.addr("add", index=tap, address=slot.gateway_ip, prefixlen=GUEST_NET.prefixlen)
    ip.link("set", index=tap, state="up")
    # Permanent: packets for the guest leave at once, also right after a restore.
    ip.neigh("add", dst=slot.guest_ip, lladdr=slot.guest_mac, ifindex=tap, state=_NUD_PERMANENT)

    build_uplink(ip, slot, host_ns)
    _route_marked_only(ip)
    sysctl("ipv4/ip_forward", 1)


def build_uplink(ip: IPRoute, slot: Slot, host_ns: int) -> None:
    """The pair of links to the host, and the way out by it; the host's side is not yet set up."""
    peer = {"ifname": slot.veth, "net_ns_fd": host_ns}
    ip.link("add", ifname=UPLINK_NAME, kind="veth", peer=peer)
    uplink = _index(ip, UPLINK_NAME)
    ip.addr("add", index=uplink, address=slot.ns_ip, prefixlen=30)
    ip.link("set", index=uplink, state="up")
    ip.route("add", dst="default", gateway=slot.host_ip)


def _route_marked_only(ip: IPRoute) -> None:
    """What comes from the guest and was not marked by the namespace's rules goes nowhere."""
    marked = {"fwmark": ROUTED_MARK, "table": _RT_TABLE_MAIN}
    for priority, action in ((10, marked), (11, {"action": "unreachable"})):
        try:
            ip.rule("add", priority=priority, iifname=TAP_NAME, **action)
        except NetlinkError as error:
            if error.code != errno.EEXIST:
                raise


def close_inside(slot: Slot) -> None:
    """Let nothing unmarked out of the namespace. Idempotent; call it there.

    A slot that an earlier version made lacks it.
    """
    with translated(f"close the routes of {slot.veth}"), IPRoute() as ip:
        for scope in ("all", TAP_NAME, UPLINK_NAME):
            sysctl(f"ipv4/conf/{scope}/rp_filter", 0)
        _route_marked_only(ip)


def open_to_host(slot: Slot) -> None:
    """What the host's side of the veth needs: forwarding, and DNAT of and to 127.0.0.1."""
    with translated(f"set up the link {slot.veth}"):
        sysctl(f"ipv6/conf/{slot.veth}/disable_ipv6", 1, optional=True)
        sysctl(f"ipv4/conf/{slot.veth}/forwarding", 1)
        sysctl(f"ipv4/conf/{slot.veth}/route_localnet", 1)


def delete_link(name: str) -> None:
    """Delete a link, with the other end if it is a veth. Idempotent."""
    with translated(f"delete the link {name}"), IPRoute() as ip:
        for index in ip.link_lookup(ifname=name):
            try:
                ip.link("del", index=index)
            except NetlinkError as error:
                if error.code != _ENODEV:  # it went with its namespace
                    raise


def link_names() -> list[str]:
    with translated("list the links"), IPRoute() as ip:
        return [str(link.get_attr("IFLA_IFNAME")) for link in ip.get_links()]


def make_address_link(name: str, address: str) -> None:
    """A link that does nothing but hold an address of the host. Idempotent.

    It is a TUN nobody has opened, since slots need that driver anyway.
    """
    with translated(f"make the link {name}"), IPRoute() as ip:
        if not ip.link_lookup(ifname=name):
            fd = _open_tun(name, _IFF_TUN)
            try:
                fcntl.ioctl(fd, _TUNSETPERSIST, 1)
            finally:
                os.close(fd)
        sysctl(f"ipv6/conf/{name}/disable_ipv6", 1, optional=True)
        index = _index(ip, name)
        ip.addr("replace", index=index, address=address, prefixlen=32)
        ip.link("set", index=index, state="up")


def networks_of_others(is_ours: frozenset[str]) -> list[tuple[str, IPv4Network]]:
    """Link and network of every IPv4 address and route that is on none of our links."""
    found: list[tuple[str, IPv4Network]] = []
    with translated("list the addresses and routes"), IPRoute() as ip:
        names = {link["index"]: str(link.get_attr("IFLA_IFNAME")) for link in ip.get_links()}
        for address in ip.get_addr(family=2):
            name = names.get(address["index"], "?")
            local = address.get_attr("IFA_LOCAL") or address.get_attr("IFA_ADDRESS")
            found.append((name, IPv4Network((local, address["prefixlen"]), strict=False)))
        for route in ip.get_routes(family=2):
            name = names.get(route.get_attr("RTA_OIF"), "?")
            dst = route.get_attr("RTA_DST")
            if dst is not None and route["dst_len"] > 0:
                found.append((name, IPv4Network((dst, route["dst_len"]), strict=False)))
    return [(name, network) for name, network in found if name not in is_ours]


def default_route_links() -> frozenset[str]:
    """The links that lead to the outside world."""
    with translated("list the routes"), IPRoute() as ip:
        names = {link["index"]: str(link.get_attr("IFLA_IFNAME")) for link in ip.get_links()}
        return frozenset(
            names.get(route.get_attr("RTA_OIF"), "")
            for route in ip.get_routes(family=2)
            if route["dst_len"] == 0 and route.get_attr("RTA_OIF") is not None
        )
