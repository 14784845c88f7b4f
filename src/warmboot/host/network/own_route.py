"""A route that keeps engines' own addresses from the host's sockets, whatever the firewall does.

All of 127.0.0.0/8 is local: what is sent there and not led elsewhere meets whoever listens on all
addresses. A route of a network in it, more specific and not ``local``, takes that away: it leads to
our link that holds an address and is connected to nothing, where packets are dropped. The rules
come before, and lead them to a guest or refuse them (see ``rules``); where somebody has removed
those, nobody answers until they are back. No program can listen at such an address, either.

It must not lead to ``lo``: whatever leaves by that comes in again for the host's sockets.

Both functions block for milliseconds, and are called in threads of their own.
"""

from __future__ import annotations

import socket

from pyroute2 import IPRoute

from warmboot.host.network import links
from warmboot.host.network.config import NetworkConfig

_TABLE_LOCAL = 255
_SOURCE = "127.0.0.1"
"""What clients have towards the rest of 127.0.0.0/8."""


def keep(config: NetworkConfig) -> None:
    """Have the link and the route. Idempotent."""
    links.make_address_link(config.dns_link, config.dns_ip)
    with links.translated(f"add the route of {config.engine_network}"), IPRoute() as ip:
        links.sysctl(f"ipv4/conf/{config.dns_link}/route_localnet", 1)
        (index,) = ip.link_lookup(ifname=config.dns_link)
        ip.route(
            "replace",
            dst=str(config.engine_network),
            table=_TABLE_LOCAL,
            oif=index,
            scope="link",
            prefsrc=_SOURCE,
        )


def is_kept(config: NetworkConfig) -> bool:
    network = config.engine_network
    with links.translated("list the routes"), IPRoute() as ip:
        ours = ip.link_lookup(ifname=config.dns_link)
        return any(
            (route.get_attr("RTA_DST"), route["dst_len"])
            == (str(network.network_address), network.prefixlen)
            and route.get_attr("RTA_OIF") in ours
            for route in ip.get_routes(family=socket.AF_INET, table=_TABLE_LOCAL)
        )
