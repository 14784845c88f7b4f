"""Rules beside those of the guest's boot (``/usr/lib/warmboot/firewall``)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from .system import GATEWAY, System
from .wire import HttpError

_IPTABLES = ("/usr/sbin/iptables", "--wait", "-t")


def add_rule(system: System, table: str, chain: str, rule: Sequence[str], first: bool) -> None:
    """Add a rule that is not there yet; with ``first`` before the others. ``HttpError`` 500."""
    if system.run([*_IPTABLES, table, "-C", chain, *rule]) == 0:
        return
    if system.run([*_IPTABLES, table, "-I" if first else "-A", chain, *rule]) != 0:
        raise HttpError(500, f"iptables refused {' '.join((table, chain, *rule))}")


def delete_rule(system: System, table: str, chain: str, rule: Sequence[str]) -> None:
    """Delete a rule, which may have gone already: then iptables says so."""
    system.run([*_IPTABLES, table, "-D", chain, *rule])


def let_reach_host(system: System, ports: Iterable[int]) -> None:
    """Containers may reach these TCP ports at the gateway, also in an image of before, whose own
    firewall drops what is for the host. Which ones lead anywhere is the host's decision. Until the
    guest's end."""
    for port in ports:
        rule = ["-d", f"{GATEWAY}/32", "-p", "tcp", "-m", "tcp", "--dport", str(port)]
        for chain in ("FORWARD", "OUTPUT"):
            add_rule(system, "mangle", chain, [*rule, "-j", "ACCEPT"], first=True)
