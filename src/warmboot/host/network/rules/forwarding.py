"""The two settings of the host, outside of our tables, that guests need to reach other networks.

``net.ipv4.ip_forward`` is set to 1 when it is 0, with a note in ``state_dir`` that it was us. It is
set back when everything of ours goes, unless by then somebody else on the host does NAT as well.

When the policy of iptables' FORWARD chain is DROP (Docker sets it so), two rules of ours that
accept what enters or leaves our own links, with our name in their comment, go to its top. They let
nothing through that our own ``forward`` chain, which comes first, has not already decided on.
"""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import structlog

from warmboot.host.network.config import NetworkConfig
from warmboot.host.network.links import sysctl, translated
from warmboot.host.network.rules import nft
from warmboot.model.errors import NetworkError
from warmboot.system.programs import look_up

_IP_FORWARD = Path("/proc/sys/net/ipv4/ip_forward")
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_NAT_WORDS = ("masquerade", "MASQUERADE", "snat to", "dnat to", "-j DNAT", "-j SNAT")

_log = structlog.get_logger(__name__)


class Forwarding:
    """Allows forwarding of our links on this host, and takes it back."""

    def __init__(self, config: NetworkConfig) -> None:
        self._config = config
        self._note = config.state_dir / "ip_forward.json"
        self._lock = asyncio.Lock()

    async def allow(self) -> bool:
        """Idempotent; whether something was lacking.

        Called again for every slot, and now and then, as Docker may be started at any time.
        """
        async with self._lock:
            with translated("turn on IP forwarding"):
                lacking = self._turn_on()
            if await self._policy_is_drop():
                for rule in self._rules():
                    if not await self._iptables("-C", *rule):
                        await self._insert(rule)
                        lacking = True
            return lacking

    def _turn_on(self) -> bool:
        if _IP_FORWARD.read_text().strip() != "0":
            return False
        note = {"boot_id": _BOOT_ID.read_text().strip(), "before": 0}
        self._note.write_text(json.dumps(note))
        sysctl("ipv4/ip_forward", 1)
        return True

    async def withdraw(self) -> None:
        """Take back what ``allow`` has changed; our own tables must be gone already. Idempotent."""
        async with self._lock:
            if look_up("iptables") is not None:
                for rule in self._rules():
                    while await self._iptables("-D", *rule):
                        pass
            await self._restore_ip_forward()

    async def _restore_ip_forward(self) -> None:
        if not self._note.exists():
            return
        note = json.loads(self._note.read_text())
        if note["boot_id"] == _BOOT_ID.read_text().strip():
            if await _somebody_does_nat():
                _log.info("ip_forward left on", reason="another program on this host does NAT")
                return
            with translated("turn off IP forwarding"):
                sysctl("ipv4/ip_forward", 0)
        self._note.unlink()

    def _rules(self) -> list[list[str]]:
        tail = ["-m", "comment", "--comment", f"warmboot {self._config.prefix}", "-j", "ACCEPT"]
        links = f"{self._config.prefix}-+"
        return [["FORWARD", "-i", links, *tail], ["FORWARD", "-o", links, *tail]]

    async def _policy_is_drop(self) -> bool:
        if look_up("iptables") is None:
            return False
        _, out, _ = await nft.run("iptables", "-w", "-S", "FORWARD")
        return out.startswith("-P FORWARD DROP")

    async def _iptables(self, verb: str, *rule: str) -> bool:
        """Whether the rule was there."""
        status, _, _ = await nft.run("iptables", "-w", verb, *rule)
        return status == 0

    async def _insert(self, rule: list[str]) -> None:
        status, _, err = await nft.run("iptables", "-w", "-I", *rule)
        if status != 0:
            raise NetworkError(
                "iptables refused the rule that lets VMs through its FORWARD chain",
                details=err.strip(),
                resolution="check whether `iptables -S FORWARD` works",
            )


async def _somebody_does_nat() -> bool:
    status, out, _ = await nft.run("nft", "list", "ruleset")
    if status != 0 or any(word in out for word in _NAT_WORDS):
        return True
    legacy = Path("/proc/net/ip_tables_names")
    return legacy.exists() and "nat" in legacy.read_text().split()
