"""Whether a snapshot fits this host, as opposed to whether it is damaged: a pure function.

ready ──▶ fits this host ──▶ USABLE
  └────▶ does not ────────▶ NOT_HERE: names the requirement; a rebuild makes one that fits
unhealthy ────────────────▶ BROKEN: failed, damaged, or never built
creating, deleted ────────▶ NOT_READY
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from warmboot.model.runtime_image import GUEST_PROTOCOLS, speaks_with
from warmboot.model.runtime_snapshot import (
    HostRequirements,
    RuntimeSnapshot,
    SnapshotState,
    requirements_of,
    unmet,
)

GUEST_AGENT = "guest_agent"
"""The requirement that this warmboot speaks the guest agent's protocol."""


class FitKind(StrEnum):
    USABLE = "usable"
    NOT_HERE = "not-here"
    BROKEN = "broken"
    NOT_READY = "not-ready"


@dataclass(frozen=True, slots=True)
class Fit:
    """``requirement`` is a field of ``HostRequirements``, or ``guest_agent``; ``why`` in words."""

    kind: FitKind
    requirement: str | None = None
    why: str = ""

    @property
    def usable(self) -> bool:
        return self.kind is FitKind.USABLE


def fit_of(snapshot: RuntimeSnapshot, here: HostRequirements) -> Fit:
    """Whether ``snapshot`` can be used on the host ``here``, and why not."""
    if snapshot.state is SnapshotState.UNHEALTHY:
        brief = str((snapshot.error or {}).get("brief", ""))
        return Fit(FitKind.BROKEN, None, brief or "it is unhealthy")
    if snapshot.state is not SnapshotState.READY:
        return Fit(FitKind.NOT_READY, None, f"it is {snapshot.state}")
    return fit_of_ready(requirements_of(snapshot), agent_of(snapshot), here)


def fit_of_ready(
    requires: HostRequirements | None, agent: str | None, here: HostRequirements
) -> Fit:
    """The same for a ready one, by what it says it needs; ``None`` is not known, and let pass."""
    found = None if requires is None else unmet(requires, here)
    if found is not None:
        return Fit(FitKind.NOT_HERE, *found)
    if not speaks_with(agent):
        spoken = ", ".join(sorted(GUEST_PROTOCOLS))
        return Fit(
            FitKind.NOT_HERE,
            GUEST_AGENT,
            f"guest agent mismatch: its protocol is {agent}, this warmboot speaks {spoken}",
        )
    return Fit(FitKind.USABLE)


def agent_of(snapshot: RuntimeSnapshot) -> str | None:
    """The guest agent's protocol version that was frozen with it."""
    agent = snapshot.metadata.get("agent_version")
    return None if agent is None else str(agent)
