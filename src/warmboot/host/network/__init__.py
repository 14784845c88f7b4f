"""The host's networking for VMs: a namespace, TAP, veth, NAT and published ports for each.

What is made on the host, for the prefix ``wb``::

    /run/netns/wb-<n>   a namespace per slot: tap0, up0, a table of rules
    wb-<n>              the host's side of its veth
    wb-dns              a link that holds the name server's address; the route of the engines' own
                        addresses leads there, and nowhere else (see ``own_route``)
    table ip wb_net     every rule of the host (see ``rules``)
    dnsmasq             the guests' name server (see ``dns``)

The user's own network, firewall and Docker are left alone, but for two things that forwarding
needs, both taken back at ``stop(keep=False)`` (see ``rules.forwarding``): ``net.ipv4.ip_forward``,
set to 1 if it is 0; and two rules that let our own links through iptables' FORWARD chain if its
policy is DROP. A host firewall of another kind that drops forwarded packets, or drops in INPUT the
guests' questions to the name server, must be told to let the links ``wb-*`` through.
"""

from warmboot.host.network.config import NetworkConfig, Slot
from warmboot.host.network.namespaces import connect
from warmboot.host.network.network import Network
from warmboot.host.network.rules.upkeep import Repair

__all__ = ["Network", "NetworkConfig", "Repair", "Slot", "connect"]
