"""What parking asks of a kind of tenants, and what its saga knows of a run."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar
from uuid import UUID

from warmboot.model.container import PortMapping
from warmboot.model.tenants.boot import Tenant
from warmboot.model.vm import VmRecord

T = TypeVar("T", bound=Tenant)
T_contra = TypeVar("T_contra", bound=Tenant, contravariant=True)

WAKES_AT_START = "wakes_at_start"
"""In a moment's metadata: the manager's next start is to wake who was parked in it."""


class Parking(Protocol[T_contra]):
    """What parking does with tenants of one kind."""

    async def note(self, tenant: T_contra) -> Mapping[str, Any]:
        """What of it belongs to the moment's metadata."""
        ...

    def ports(self, tenant: T_contra, noted: Mapping[str, Any]) -> Sequence[PortMapping]:
        """Ports of the host that it keeps: who connects to them has it wake. ``noted`` is the
        metadata of its moment."""
        ...

    async def let_go(self, tenant: T_contra) -> None:
        """Have nothing follow its VM any more, which is about to be ended. Idempotent."""
        ...

    async def lead(self, tenant: T_contra, record: VmRecord) -> Mapping[str, Any]:
        """Have all lead to its new VM that led to the former; what changes of its row by that."""
        ...

    async def runs(self, tenant: T_contra, record: VmRecord) -> None:
        """It is stored, and told, that it runs; who has woken it is not answered yet."""
        ...

    async def show(self, tenant: T_contra) -> None:
        """Tell who serves it how it is now."""
        ...


@dataclass(slots=True)
class ParkNotes:
    """Journaled."""

    moment_id: UUID
    vm_id: str
    wakes_at_start: bool = False


async def nothing_against_it() -> None:
    return


@dataclass(frozen=True, slots=True)
class Park(Generic[T]):
    """What a run's steps share. ``check`` raises if it is not to be parked after all: it is called
    while its VM stands still, before that is the last word."""

    tenant: T
    check: Callable[[], Awaitable[None]] = nothing_against_it
