"""Reads the host's connection tracking, and deletes entries of it.

A namespace takes its own tracked connections with it, the host keeps the ones that were forwarded
to or from it. A client that goes on sending UDP would keep such an entry alive for ever, and be led
to a VM that is gone even after another one has got the port.
"""

from __future__ import annotations

import socket
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any

from pyroute2.netlink.exceptions import NetlinkError
from pyroute2.netlink.nfnetlink.nfctsocket import NFCTAttrTuple, NFCTSocket

from warmboot.host.network.links import translated
from warmboot.model.container import PortMapping
from warmboot.model.usage import ForwardedConnections

_DST_NAT = 1 << 5  # IPS_DST_NAT of linux/netfilter/nf_conntrack_common.h
_ENDED = (7, 8)  # TCP_CONNTRACK_TIME_WAIT, TCP_CONNTRACK_CLOSE of nf_conntrack_tcp.h
_ENOENT = 2


@dataclass(frozen=True, slots=True)
class Flow:
    """A TCP connection as its client sees it."""

    client: str
    client_port: int
    host: str
    host_port: int


def forget(ns_ips: Collection[str]) -> list[Flow]:
    """Delete what came from or was forwarded to these addresses. Blocks.

    Returns the TCP connections among it that were forwarded to them.
    """
    flows: list[Flow] = []
    with translated("forget tracked connections"), NFCTSocket() as table:
        for entry, inbound in list(_entries(table, ns_ips)):
            original = NFCTAttrTuple.from_netlink(socket.AF_INET, entry)
            if inbound and original.proto == socket.IPPROTO_TCP:
                flows.append(Flow(original.saddr, original.sport, original.daddr, original.dport))
            _delete(table, original)
    return flows


def connections(ns_ip: str) -> ForwardedConnections:
    """What was forwarded to this address. Blocks.

    UDP has no end: a sender counts until the kernel forgets it, minutes after its last datagram.
    """
    any_open, known = False, set()
    with translated("list tracked connections"), NFCTSocket() as table:
        for entry in table.dump(status=_DST_NAT, status_mask=_DST_NAT):
            reply = entry.get_attr("CTA_TUPLE_REPLY").get_attr("CTA_TUPLE_IP")
            if reply.get_attr("CTA_IP_V4_SRC") != ns_ip:
                continue
            one = NFCTAttrTuple.from_netlink(socket.AF_INET, entry.get_attr("CTA_TUPLE_ORIG"))
            known.add(f"{one.proto} {one.saddr}:{one.sport} {one.daddr}:{one.dport}")
            any_open |= _is_open(entry)
    return ForwardedConnections(any_open, frozenset(known))


def _is_open(entry: Any) -> bool:
    info = entry.get_attr("CTA_PROTOINFO")
    tcp = None if info is None else info.get_attr("CTA_PROTOINFO_TCP")
    return tcp is None or tcp.get_attr("CTA_PROTOINFO_TCP_STATE") not in _ENDED


def forget_strays(mapping: PortMapping, here: Collection[str]) -> None:
    """Delete what the host tracks of a UDP port from before it was published. Blocks.

    Rules of NAT are asked once a connection, and a sender that goes on keeps the one that it had:
    without this it would never be led to the guest. ``here`` are the host's addresses.
    """
    with translated("forget earlier senders to a published port"), NFCTSocket() as table:
        wanted = NFCTAttrTuple(proto=socket.IPPROTO_UDP, dport=mapping.host_port)
        for entry in list(table.dump(tuple_orig=wanted)):
            original = NFCTAttrTuple.from_netlink(socket.AF_INET, entry.get_attr("CTA_TUPLE_ORIG"))
            # Kernels before 5.8 do not filter.
            if (original.proto, original.dport) != (wanted.proto, wanted.dport):
                continue
            local = original.daddr in here or original.daddr.startswith("127.")
            if original.daddr == mapping.host_ip or (mapping.is_any and local):
                _delete(table, original)


def _delete(table: NFCTSocket, original: NFCTAttrTuple) -> None:
    try:
        table.entry("del", tuple_orig=original)
    except NetlinkError as error:
        if error.code != _ENOENT:  # it ended by itself
            raise


def _entries(table: NFCTSocket, ns_ips: Collection[str]) -> Iterator[tuple[Any, bool]]:
    """The original tuple of each connection of theirs, and whether it was forwarded to them."""
    for entry in table.dump(status=_DST_NAT, status_mask=_DST_NAT):
        reply = entry.get_attr("CTA_TUPLE_REPLY").get_attr("CTA_TUPLE_IP")
        if reply.get_attr("CTA_IP_V4_SRC") in ns_ips:
            yield entry.get_attr("CTA_TUPLE_ORIG"), True
    for ns_ip in ns_ips:
        for entry in table.dump(tuple_orig=NFCTAttrTuple(saddr=ns_ip)):
            original = entry.get_attr("CTA_TUPLE_ORIG")
            # Kernels before 5.8 do not filter.
            if original.get_attr("CTA_TUPLE_IP").get_attr("CTA_IP_V4_SRC") == ns_ip:
                yield original, False
