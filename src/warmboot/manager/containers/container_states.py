"""Which requests are legal in which state of a container, and their refusals. Pure functions."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from signal import SIGKILL
from typing import Any

from warmboot.manager.protocols import Until
from warmboot.manager.tenants import boot_tenant
from warmboot.manager.tenants.fork_tenant import NewFork
from warmboot.manager.tenants.pause_tenant import check_not_parked, check_not_paused
from warmboot.model.container import (
    BEGUN,
    DEFAULT_STOP_TIMEOUT_S,
    Container,
    ContainerSpec,
    ContainerState,
)
from warmboot.model.conventions.signals import signal_name
from warmboot.model.errors import Conflict, VmGone
from warmboot.model.tenants.boot import BootPolicy
from warmboot.model.tenants.container_options import Health
from warmboot.model.tenants.host_folder import as_frozen

UNBOOTED: dict[str, Any] = {**boot_tenant.UNBOOTED, "ports": (), "health": None}
"""What is known of a container's boot before it: nothing."""

_NOT_YET = (ContainerState.CREATED, ContainerState.CREATING, ContainerState.WAKING)


def has_reached(container: Container, until: Until) -> bool:
    """Whether the container has reached the awaited state, or never will."""
    if container.state in (ContainerState.FAILED, ContainerState.DELETING):
        return True
    if until is Until.BOOTED:
        return container.boot_method is not None
    if until is Until.RUNNING:
        return container.state not in _NOT_YET
    ended = container.state is ContainerState.EXITED
    if until is Until.HEALTHY:  # without a check it never will be
        return ended or container.health in (Health.HEALTHY, Health.NONE)
    return ended


def can_be_stopped(container: Container) -> bool:
    """``Conflict`` while it is being created."""
    if container.state is ContainerState.CREATING:
        raise Conflict(
            f"{container.name} is still being created",
            resolution=f"wait (`warmboot wait {container.name}`), or use `warmboot rm -f`",
        )
    check_not_parked(container)
    goes_on = container.state in (ContainerState.RUNNING, ContainerState.PAUSED)
    return goes_on and container.docker_id is not None


def stop_timeout_s(container: Container, asked_s: float | None) -> float:
    """How long it may take to end by itself: as asked now, as it was created, or the default."""
    given = (asked_s, container.spec.stop_timeout_s)
    return next((one for one in given if one is not None), DEFAULT_STOP_TIMEOUT_S)


def ends(container: Container, signal: str) -> bool:
    """Whether this signal has a paused container run on, to be ended by it."""
    own = container.spec.stop_signal or "SIGTERM"
    return signal_name(signal) in ("SIGKILL", "9", "SIGTERM", "15", signal_name(own))


def check_runs(container: Container) -> None:
    """``Conflict`` unless it does."""
    check_not_paused(container)
    if container.state is not ContainerState.RUNNING or container.docker_id is None:
        raise Conflict(
            f"{container.name} is not running",
            details=f"it is {container.state}",
            resolution=f"start it first: `warmboot start {container.name}`",
        )


def check_has_process(container: Container) -> None:
    """``Conflict`` if it never came as far as to be one in its VM."""
    if container.state is ContainerState.CREATED:
        raise Conflict(
            f"{container.name} has not been started yet",
            details="it has no VM before that, and no files",
            resolution=f"start it first: `warmboot start {container.name}`",
        )
    if container.docker_id is None:
        error = (container.error or {}).get("brief", f"it is {container.state}")
        raise Conflict(
            f"{container.name} has no process in a VM",
            details=str(error),
            resolution=f"see `warmboot inspect {container.name}`",
        )


def fork_of(source: Container, fork: NewFork) -> ContainerSpec:
    """What a fork is: as its source, at any free ports of the host, with its own host name."""
    return replace(
        source.spec,
        name=fork.name,
        hostname="",
        ports=tuple(replace(port, host_port=0, host_port_last=0) for port in source.spec.ports),
        shape=source.shape,
        runtime_image_id=source.runtime_image_id,
        boot=BootPolicy.AUTO,
        snapshot=str(fork.moment_id),
        folders=source.spec.folders
        if fork.writable_folders
        else tuple(as_frozen(folder.path) for folder in source.spec.folders),
    )


def killed_with_vm(container: Container) -> dict[str, Any]:
    """How its program ends, if it still runs and its VM is removed: those who wait are told."""
    if container.state not in BEGUN:
        return {}
    return {"exit_code": 128 + SIGKILL, "finished_at": datetime.now(UTC)}


def vm_gone(container: Container) -> VmGone:
    """Why there is nobody to ask, and the way back to what the container has written."""
    name, error = container.name, container.error or {}
    why = error.get("details") or error.get("brief") or "its VMM ended after the container had"
    return VmGone(
        f"the VM of container {name} is gone",
        details=f"{why}; its disk is kept, and what the container has written is on it",
        resolution=f"`warmboot start {name}` boots it again on its disk and runs its command "
        f"again; `warmboot logs {name}` then shows the old output, too",
    )
