"""Forgetting connections of the host's connection tracking.

A namespace takes its own tracked connections with it, the host keeps the ones that were forwarded
to it. A client that goes on sending UDP would keep such an entry alive for ever, and be led to a
VM that is gone even after another one has got the port.
"""

from __future__ import annotations

import socket

from pyroute2.netlink.exceptions import NetlinkError
from pyroute2.netlink.nfnetlink.nfctsocket import NFCTAttrTuple, NFCTSocket

from warmboot.host.network.links import translated

_DST_NAT = 1 << 5  # IPS_DST_NAT of linux/netfilter/nf_conntrack_common.h
_ENOENT = 2


def forget(ns_ip: str) -> None:
    """Delete what was forwarded to this address. Blocks."""
    with translated(f"forget the connections of {ns_ip}"), NFCTSocket() as table:
        found = []
        for entry in table.dump(status=_DST_NAT, status_mask=_DST_NAT):
            reply = entry.get_attr("CTA_TUPLE_REPLY").get_attr("CTA_TUPLE_IP")
            if reply.get_attr("CTA_IP_V4_SRC") == ns_ip:
                original = entry.get_attr("CTA_TUPLE_ORIG")
                found.append(NFCTAttrTuple.from_netlink(socket.AF_INET, original))
        for original in found:
            try:
                table.entry("del", tuple_orig=original)
            except NetlinkError as error:
                if error.code != _ENOENT:  # it ended by itself
                    raise
