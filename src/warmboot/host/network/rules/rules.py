"""The rules, as nftables scripts: pure text, one table on the host and one in every namespace.

What a packet of a guest meets on its way out::

    guest ─▶ tap0 │ raw       its own address, or dropped; marked, or not routed (see ``links``)
                  │ dstnat    198.18.0.1:53 ─▶ the name server; an opened port ─▶ the host
                  │ forward   nothing of the host's private business, else rejected
                  │ srcnat    becomes ns_ip
                  │ seal      becomes 239.…, which no host takes for a sender
         ─▶ veth  │ unseal    ns_ip again
                  │ guard     no address of the host but the name server and opened ports
                  │ dstnat    an opened port ─▶ 127.0.0.1
                  │ forward   not to another slot, not into another engine's bridge
                  │ srcnat    becomes the host's address           ─▶ the world

and a packet for a published port on its way in::

    client ─▶ dstnat (or output, from the host itself): host_ip:host_port ─▶ ns_ip:container_port
           ─▶ srcnat: 127.0.0.1 becomes host_ip of the veth
           ─▶ in the namespace, dstnat: ns_ip ─▶ 198.18.0.2, published ports only

An engine's own address, of ``engine_network`` in 127.0.0.0/8, is led by ``published`` as well. What
is not led from there to a guest of ours is refused (``own``): neither what the host has on all of
its addresses answers there, nor what others have published on all of them. A route (``own_route``)
keeps the host's sockets from it without these rules, too.

``guard`` comes before every DNAT, other programs' included. So a guest cannot reach a published
port, a container of the user's Docker or another guest by way of an address of the host.

**Without our table a guest reaches nothing.** The kernel drops what has a multicast address as
its source, whatever is set on the host, and only ``unseal``, which stands in the same table as
``guard``, gives a guest's packets an ordinary one. Where a namespace's table is gone, no packet of
its guest has the mark without which it is not routed.
"""

from __future__ import annotations

from collections.abc import Iterable

from warmboot.host.network.config import (
    DNS_PORT,
    FOLDERS_PORT,
    GUEST_NET,
    ROUTED_MARK,
    TAP_NAME,
    UPLINK_NAME,
    NetworkConfig,
    Slot,
)
from warmboot.host.network.ports.conntrack import Flow
from warmboot.model.container import PortMapping

# Link-local holds the metadata services of clouds. The last is multicast and broadcast.
_NEVER = ("0.0.0.0/8", "127.0.0.0/8", "169.254.0.0/16", str(GUEST_NET), "224.0.0.0/3")
_ANY_PORT = "meta l4proto . th dport"
_HOST_CHAINS = ("unseal", "guard", "from_guest", "dstnat", "output", "own", "forward", "srcnat")
_NAMESPACE_CHAINS = ("raw", "dstnat", "input", "forward", "srcnat", "seal")
_SEALED = "239.0.0.0/8"
# Longer than a peer with TCP's usual keepalive (2 h) is silent.
_REMEMBERED = "3h"
_FLOW = "ip saddr . tcp sport . ip daddr . tcp dport"
_CLAMP = "tcp flags syn / syn,rst tcp option maxseg size set rt mtu"


def _refused(match: str) -> str:
    """Rejected, not dropped: a guest's program learns of it at once."""
    return f"""
    {match} meta l4proto tcp reject with tcp reset
    {match} reject with icmp admin-prohibited"""


def _closed(match: str) -> str:
    """Refused as where nobody listens."""
    return f"""
    {match} meta l4proto tcp reject with tcp reset
    {match} reject with icmp port-unreachable"""


def _never(config: NetworkConfig) -> str:
    return "{ " + ", ".join([*_NEVER, str(config.network)]) + " }"


def _replaced(table: str, chains: Iterable[str]) -> str:
    """Statements that remove these chains, whether they are there or not."""
    chains = tuple(chains)
    return "\n".join(
        f"{verb} chain ip {table} {chain}"
        for verb in ("add", "flush", "delete")
        for chain in chains
    )


def _host_sets(config: NetworkConfig) -> str:
    return f"""
table ip {config.table} {{
  map published {{ type ipv4_addr . inet_proto . inet_service : ipv4_addr . inet_service; }}
  map published_any {{ type inet_proto . inet_service : ipv4_addr . inet_service; }}
  set opened {{ type ifname . inet_service; }}
  set ended {{
    type ipv4_addr . inet_service . ipv4_addr . inet_service; flags timeout; timeout {_REMEMBERED};
  }}
}}"""


def _inside_sets(config: NetworkConfig) -> str:
    return f"""
table ip {config.table} {{
  set published {{ type inet_proto . inet_service; }}
  set opened {{ type inet_service; }}
}}"""


def sealed(ip: str) -> str:
    """The source under which what comes from ``ns_ip`` is handed to the host."""
    return "239." + ip.partition(".")[2]


def host(config: NetworkConfig, foreign_bridges: Iterable[str] = ()) -> str:
    """The host's table, replaced in one go; the published and opened ports in it are kept."""
    table, ours = config.table, f'"{config.prefix}-*"'
    # As a namespace leads there what is for 198.18.0.1; no other address of the host is meant.
    opened = f"ip daddr {config.network} fib daddr type local iifname . tcp dport @opened"
    led_away = f"ct direction original ct original ip daddr {config.engine_network}"
    bridges = "\n".join(
        _refused(f'iifname {ours} oifname "{bridge}"') for bridge in foreign_bridges
    )
    return f"""{_host_sets(config)}
{_replaced(table, _HOST_CHAINS)}
table ip {table} {{
  chain unseal {{
    type filter hook prerouting priority raw - 50; policy accept;
    iifname {ours} ip saddr != {_SEALED} drop
    iifname {ours} ip saddr set ip saddr & 0.255.255.255 | {config.network[0].packed[0]}.0.0.0
  }}
  chain from_guest {{
    ct state invalid drop
    fib saddr . iif oif missing drop
    ct state established,related accept
    ip daddr {config.dns_ip} meta l4proto {{ tcp, udp }} th dport {DNS_PORT} accept
    {opened} accept
    {_refused(f"ip daddr {_never(config)}")}
    {_refused("fib daddr type != unicast")}
  }}
  chain guard {{
    type filter hook prerouting priority mangle; policy accept;
    iifname {ours} jump from_guest
    iifname != {ours} iifname != "lo" ip daddr {config.dns_ip} drop
    ct state {{ new, invalid }} tcp flags & syn == 0 {_FLOW} @ended reject with tcp reset
  }}
  chain dstnat {{
    type nat hook prerouting priority dstnat; policy accept;
    {opened} dnat to 127.0.0.1
    iifname {ours} accept
    ip daddr 127.0.0.0/8 accept
    dnat ip to ip daddr . {_ANY_PORT} map @published
    fib daddr type local dnat ip to {_ANY_PORT} map @published_any
  }}
  chain output {{
    type nat hook output priority -100; policy accept;
    dnat ip to ip daddr . {_ANY_PORT} map @published
    ip daddr {config.engine_network} accept
    fib daddr type local dnat ip to {_ANY_PORT} map @published_any
  }}
  chain own {{
    type filter hook output priority filter; policy accept;
    {_closed(f"ip daddr {config.engine_network}")}
    {_closed(f"{led_away} ip daddr != {config.network}")}
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
    """The table of a namespace, replaced in one go; what is published and opened in it is kept."""
    tap, uplink = f'"{TAP_NAME}"', f'"{UPLINK_NAME}"'
    to_gateway = f"iifname {tap} ip daddr {slot.gateway_ip}"
    return f"""{_inside_sets(config)}
{_replaced(config.table, _NAMESPACE_CHAINS)}
table ip {config.table} {{
  chain raw {{
    type filter hook prerouting priority raw; policy accept;
    iifname {tap} ip saddr != {slot.guest_ip} drop
    iifname {tap} meta mark set {ROUTED_MARK}
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
    {to_gateway} tcp dport {FOLDERS_PORT} tcp sport < 1024 ip ttl 255 accept
    {_closed(f"iifname {tap}")}
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
  chain seal {{
    type filter hook postrouting priority srcnat + 150; policy accept;
    oifname {uplink} ip saddr set {sealed(slot.ns_ip)}
  }}
}}"""


def delete_table(config: NetworkConfig) -> str:
    """Idempotent."""
    return f"add table ip {config.table}\ndelete table ip {config.table}"


def publish(config: NetworkConfig, slot: Slot, mapping: PortMapping) -> tuple[str, str]:
    """Scripts for the host and the namespace that publish a port. Idempotent."""
    inside = f"{mapping.protocol} . {mapping.container_port}"
    return (
        lead(config, mapping, slot.ns_ip, mapping.container_port),
        f"{_inside_sets(config)}\nadd element ip {config.table} published {{ {inside} }}",
    )


def lead(config: NetworkConfig, mapping: PortMapping, address: str, port: int) -> str:
    """A script for the host that leads a port to this address and port. Idempotent."""
    key = f"{mapping.protocol} . {mapping.host_port}"
    name = "published_any" if mapping.is_any else "published"
    key = key if mapping.is_any else f"{mapping.host_ip} . {key}"
    element = f"{{ {key} : {address} . {port} }}"
    return f"{_host_sets(config)}\nadd element ip {config.table} {name} {element}"


def withdraw(config: NetworkConfig, slot: Slot, mapping: PortMapping) -> tuple[str, str]:
    """Scripts that undo ``publish``; the second one if nothing else leads to that port inside.

    What is not there cannot be deleted: both add it first.
    """
    host, inside = publish(config, slot, mapping)
    return and_deleted(host), and_deleted(inside)


def and_deleted(script: str) -> str:
    """The script, and its last line undone: what is not there cannot be deleted."""
    return f"{script}\n{script.splitlines()[-1].replace('add element', 'delete element', 1)}"


def close_inside(config: NetworkConfig) -> str:
    """A script for the namespace: no port is published there any more. Idempotent."""
    return f"{_inside_sets(config)}\nflush set ip {config.table} published"


def open_port(config: NetworkConfig, slot: Slot, port: int, verb: str) -> tuple[str, str]:
    """Scripts for the host and the namespace that ``add`` or ``delete`` (``verb``) an open port."""
    opened = f"element ip {config.table} opened"
    return (
        f'{_host_sets(config)}\n{verb} {opened} {{ "{slot.veth}" . {port} }}',
        f"{_inside_sets(config)}\n{verb} {opened} {{ {port} }}",
    )


def close_all_opened(config: NetworkConfig) -> str:
    """A script for the host: none of its ports is open to guests any more. Idempotent."""
    return f"{_host_sets(config)}\nflush set ip {config.table} opened"


def ended(config: NetworkConfig, flows: Iterable[Flow]) -> str:
    """Whatever more comes of these connections is answered with a reset."""
    keys = [f"{f.client} . {f.client_port} . {f.host} . {f.host_port}" for f in flows]
    return f"{_host_sets(config)}\nadd element ip {config.table} ended {{ {', '.join(keys)} }}"
