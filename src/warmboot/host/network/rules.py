"""The rules, as nftables scripts: pure text, one table on the host and one in every namespace.

What a packet of a guest meets on its way out::

    guest ─▶ tap0 │ raw       its own address, or dropped
                  │ dstnat    198.18.0.1:53 ─▶ the name server; an opened port ─▶ the host
                  │ forward   nothing of the host's private business, else rejected
                  │ srcnat    becomes ns_ip
         ─▶ veth  │ guard     no address of the host but the name server and opened ports
                  │ dstnat    an opened port ─▶ 127.0.0.1
                  │ forward   not to another slot, not into another engine's bridge
                  │ srcnat    becomes the host's address           ─▶ the world

and a packet for a published port on its way in::

    client ─▶ dstnat (or output, from the host itself): host_ip:host_port ─▶ ns_ip:container_port
           ─▶ srcnat: 127.0.0.1 becomes host_ip of the veth
           ─▶ in the namespace, dstnat: ns_ip ─▶ 198.18.0.2, published ports only

``guard`` comes before every DNAT, other programs' included. So a guest cannot reach a published
port, a container of the user's Docker or another guest by way of an address of the host.
"""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import IPv4Address

from warmboot.host.network.config import (
    DNS_PORT,
    GUEST_NET,
    TAP_NAME,
    UPLINK_NAME,
    NetworkConfig,
    Slot,
)
from warmboot.model.container import PortMapping

# Link-local holds the metadata services of clouds. The last is multicast and broadcast.
_NEVER = ("0.0.0.0/8", "127.0.0.0/8", "169.254.0.0/16", str(GUEST_NET), "224.0.0.0/3")
_ANY_PORT = "meta l4proto . th dport"
_HOST_CHAINS = ("guard", "from_guest", "dstnat", "output", "forward", "srcnat")
_CLAMP = "tcp flags syn / syn,rst tcp option maxseg size set rt mtu"


def _refused(match: str) -> str:
    """Rejected, not dropped: a guest's program learns of it at once."""
    return f"""
    {match} meta l4proto tcp reject with tcp reset
    {match} reject with icmp admin-prohibited"""


def _never(config: NetworkConfig) -> str:
    return "{ " + ", ".join([*_NEVER, str(config.network)]) + " }"


def host(config: NetworkConfig, foreign_bridges: Iterable[str] = ()) -> str:
    """The host's table, replaced in one go; the published and opened ports in it are kept."""
    table, ours = config.table, f'"{config.prefix}-*"'
    maps = f"""
table ip {table} {{
  map published {{ type ipv4_addr . inet_proto . inet_service : ipv4_addr . inet_service; }}
  map published_any {{ type inet_proto . inet_service : ipv4_addr . inet_service; }}
  set opened {{ type ifname . inet_service; }}
}}"""
    emptied = "\n".join(
        f"{verb} chain ip {table} {chain}"
        for verb in ("add", "flush", "delete")
        for chain in _HOST_CHAINS
    )
    bridges = "\n".join(
        _refused(f'iifname {ours} oifname "{bridge}"') for bridge in foreign_bridges
    )
    return f"""{maps}
{emptied}
table ip {table} {{
  chain from_guest {{
    ct state invalid drop
    fib saddr . iif oif missing drop
    ct state established,related accept
    ip daddr {config.dns_ip} meta l4proto {{ tcp, udp }} th dport {DNS_PORT} accept
    fib daddr type local iifname . tcp dport @opened accept
    {_refused(f"ip daddr {_never(config)}")}
    {_refused("fib daddr type != unicast")}
  }}
  chain guard {{
    type filter hook prerouting priority mangle; policy accept;
    iifname {ours} jump from_guest
    iifname != {ours} iifname != "lo" ip daddr {config.dns_ip} drop
  }}
  chain dstnat {{
    type nat hook prerouting priority dstnat; policy accept;
    iifname . tcp dport @opened dnat to 127.0.0.1
    iifname {ours} accept
    ip daddr 127.0.0.0/8 accept
    dnat ip to ip daddr . {_ANY_PORT} map @published
    fib daddr type local dnat ip to {_ANY_PORT} map @published_any
  }}
  chain output {{
    type nat hook output priority -100; policy accept;
    dnat ip to ip daddr . {_ANY_PORT} map @published
    fib daddr type local dnat ip to {_ANY_PORT} map @published_any
  }}
  chain forward {{
    type filter hook forward priority filter - 5; policy accept;
    iifname != {ours} oifname != {ours} accept
    {_CLAMP}
    ct state invalid drop
    ct state established,related accept
    {_refused(f"iifname {ours} oifname {ours}")}
    {bridges}
    iifname {ours} accept
    ct status dnat accept
    drop
  }}
  chain srcnat {{
    type nat hook postrouting priority srcnat; policy accept;
    oifname {ours} ip saddr 127.0.0.0/8 masquerade
    oifname != {ours} ip saddr {config.network} masquerade
  }}
}}"""


def namespace(config: NetworkConfig, slot: Slot) -> str:
    """The table of a namespace."""
    tap, uplink = f'"{TAP_NAME}"', f'"{UPLINK_NAME}"'
    to_gateway = f"iifname {tap} ip daddr {slot.gateway_ip}"
    return f"""
table ip {config.table} {{
  set published {{ type inet_proto . inet_service; }}
  set opened {{ type inet_service; }}
  chain raw {{
    type filter hook prerouting priority raw; policy accept;
    iifname {tap} ip saddr != {slot.guest_ip} drop
  }}
  chain dstnat {{
    type nat hook prerouting priority dstnat; policy accept;
    {to_gateway} meta l4proto {{ tcp, udp }} th dport 53 dnat to {config.dns_ip}:{DNS_PORT}
    {to_gateway} tcp dport @opened dnat to {slot.host_ip}
    iifname {uplink} ip daddr {slot.ns_ip} {_ANY_PORT} @published dnat to {slot.guest_ip}
  }}
  chain input {{
    type filter hook input priority filter; policy drop;
    iifname "lo" accept
    ct state established,related accept
    {_refused(f"iifname {tap}")}
  }}
  chain forward {{
    type filter hook forward priority filter; policy drop;
    {_CLAMP}
    ct state invalid drop
    ct state established,related accept
    ct status dnat accept
    iifname {tap} oifname {uplink} ip daddr != {_never(config)} accept
    {_refused(f"iifname {tap}")}
  }}
  chain srcnat {{
    type nat hook postrouting priority srcnat; policy accept;
    oifname {uplink} snat to {slot.ns_ip}
  }}
}}"""


def delete_table(config: NetworkConfig) -> str:
    """Idempotent."""
    return f"add table ip {config.table}\ndelete table ip {config.table}"


def _is_any(mapping: PortMapping) -> bool:
    return IPv4Address(mapping.host_ip).is_unspecified


def publish(config: NetworkConfig, slot: Slot, mapping: PortMapping) -> tuple[str, str]:
    """For the host and for the namespace. Idempotent."""
    target = f"{slot.ns_ip} . {mapping.container_port}"
    port = f"{mapping.protocol} . {mapping.host_port}"
    name, key = (
        ("published_any", port)
        if _is_any(mapping)
        else ("published", f"{mapping.host_ip} . {port}")
    )
    inside = f"{mapping.protocol} . {mapping.container_port}"
    return (
        f"add element ip {config.table} {name} {{ {key} : {target} }}",
        f"add element ip {config.table} published {{ {inside} }}",
    )


def open_port(config: NetworkConfig, slot: Slot, port: int, verb: str) -> tuple[str, str]:
    """For the host and for the namespace; ``verb`` is ``add`` or ``delete``."""
    return (
        f'{verb} element ip {config.table} opened {{ "{slot.veth}" . {port} }}',
        f"{verb} element ip {config.table} opened {{ {port} }}",
    )
