"""Pauses tenants in memory: their VMs stand still, and go on where they were.

    running ──the VM stops──▶ stored: paused ──the VM runs, its clock is set──▶ stored: running

The database has what was answered, and the VM follows it: a manager that was killed in between is
followed by one that has the VM stopped, or running, as is stored (``settle``).
"""

from __future__ import annotations

import contextlib
from typing import Any

import structlog

from warmboot.host.agent import HostAgent
from warmboot.manager.core.event_log import EventLog
from warmboot.manager.vms.identities import identity_of
from warmboot.model.errors import Conflict, DiskFull, HostError, InUse, VmUnresponsive
from warmboot.model.tenants.boot import Tenant
from warmboot.model.vm import VmKind
from warmboot.store import Store
from warmboot.system.on_failure import on_failure

log = structlog.get_logger(__name__)

CLOCK_TIMEOUT_S = 30.0
"""How long a VM that runs on may take to have its clock set. It runs in any case."""


class PauseTenant:
    """Its methods are called with the tenant's lock held."""

    def __init__(self, store: Store, host: HostAgent, events: EventLog) -> None:
        self._store = store
        self._host = host
        self._events = events

    async def pause(self, tenant: Tenant) -> None:
        """``Conflict`` unless it runs; ``DiskFull``, ``VmUnresponsive`` if it cannot be asked."""
        vm_id = _to_be_paused(tenant)
        async with on_failure(lambda: self._host.vms.pauses.resume(vm_id)):
            await self._host.vms.pauses.pause(vm_id)
            async with self._events.transaction() as emit:
                await self._set_state(tenant, "paused")
                await emit(f"{tenant.kind}.paused", tenant.id)

    async def unpause(self, tenant: Tenant) -> None:
        """Have it run on, with the right time; ``Conflict`` unless it is paused."""
        if tenant.state != "paused" or tenant.vm_id is None:
            raise Conflict(f"{called(tenant)} is not paused", details=f"it is {tenant.state}")
        vm_id = tenant.vm_id
        async with on_failure(lambda: self._host.vms.pauses.pause(vm_id)):
            await self._host.vms.pauses.resume(vm_id)
            await self.set_clock(tenant, vm_id)
            async with self._events.transaction() as emit:
                await self._set_state(tenant, "running")
                await emit(f"{tenant.kind}.unpaused", tenant.id)

    async def unpause_if_it_answers(self, tenant: Tenant) -> None:
        """One that is to be stopped: if its VM does not answer, that is ended all the same."""
        with contextlib.suppress(VmUnresponsive):
            await self.unpause(tenant)

    async def settle(self, tenant: Tenant) -> None:
        """Have its VM, which another manager has left, stand still or run, as is stored."""
        vm_id = tenant.vm_id
        if vm_id is None:
            return
        stands_still = self._host.vms.pauses.is_paused(vm_id)
        if tenant.state == "paused" and not stands_still:
            await self._host.vms.pauses.pause(vm_id)
        elif tenant.state != "paused" and stands_still:
            # Perhaps since it was frozen: then it writes to an overlay that is not in its place.
            await self._host.vms.go_on(await self._store.vms.get(vm_id))
            await self.set_clock(tenant, vm_id)

    async def set_clock(self, tenant: Tenant, vm_id: str) -> None:
        """A VM that has stood still is late. It is told what it is once more, with the time."""
        try:
            identity = identity_of(tenant, self._host.vms.link(vm_id).token)
            await self._host.vms.claim(vm_id, identity, CLOCK_TIMEOUT_S)
        except (HostError, DiskFull) as error:
            log.warning("a clock was not set", vm=vm_id, error=error.brief, details=error.details)

    async def _set_state(self, tenant: Tenant, state: str) -> None:
        tenants: Any = self._store.tenants(tenant.kind)
        await tenants.set_state(tenant.id, type(tenant.state)(state))


def called(tenant: Tenant) -> str:
    """What a tenant is called in a sentence."""
    return f"the engine {tenant.name}" if tenant.kind is VmKind.ENGINE else tenant.name


_GOES_ON_BY = {"paused": "unpause", "parked": "wake"}


def check_not_paused(tenant: Tenant) -> None:
    """``Conflict`` if it stands still, or is parked: nothing can be asked of what is in it."""
    if (verb := _GOES_ON_BY.get(tenant.state)) is not None:
        raise Conflict(
            f"{called(tenant)} is {tenant.state}, {verb} it first",
            resolution=f"`{command_of(tenant)} {verb} {tenant.name}`",
        )
    check_not_parked(tenant)


def check_not_parked(tenant: Tenant) -> None:
    """``Conflict`` if it is, or is about to be: it has no VM."""
    if tenant.state == "parked":
        check_not_paused(tenant)
    if tenant.state in ("parking", "waking"):
        what = "being parked" if tenant.state == "parking" else "waking"
        raise Conflict(f"{called(tenant)} is {what}", resolution="try again in a moment")


def _to_be_paused(tenant: Tenant) -> str:
    """The id of its VM; or why it cannot be paused."""
    if tenant.state == "paused":
        raise Conflict(f"{called(tenant)} is already paused")
    return to_be_frozen(tenant)


def to_be_frozen(tenant: Tenant) -> str:
    """The id of its VM; ``Conflict`` unless that runs."""
    check_not_paused(tenant)
    if tenant.state != "running" or tenant.vm_id is None:
        raise Conflict(
            f"{called(tenant)} is not running",
            details=f"it is {tenant.state}",
            resolution=f"start it first: `{command_of(tenant)} start {tenant.name}`",
        )
    check_goes_on(tenant)
    return tenant.vm_id


def to_be_put_away(tenant: Tenant) -> str:
    """The id of its VM; ``Conflict`` unless it has exited, and has one."""
    if tenant.state != "exited" or tenant.vm_id is None:
        raise Conflict(f"{called(tenant)} has no VM to be parked", details=f"it is {tenant.state}")
    check_goes_on(tenant)
    return tenant.vm_id


def check_goes_on(tenant: Tenant) -> None:
    """``DiskFull`` or ``VmUnresponsive`` if it stands still: it would not answer."""
    error: Any = tenant.error or {}
    for kind in (DiskFull, VmUnresponsive):
        if error.get("code") == kind.code:
            told = {key: str(error.get(key, "")) for key in ("details", "resolution")}
            raise kind(str(error.get("brief")), **told)


def in_use(tenant: Tenant) -> InUse:
    """Why one that has not ended is not removed without force."""
    command, name = command_of(tenant), tenant.name
    first = "wake" if tenant.state == "parked" else "stop"
    return InUse(
        f"{called(tenant)} is {tenant.state}",
        resolution=f"{first} it first (`{command} {first} {name}`), or `{command} rm -f {name}`",
    )


def command_of(tenant: Tenant) -> str:
    """The beginning of what is typed for it."""
    return "warmboot engine" if tenant.kind is VmKind.ENGINE else "warmboot"
