"""The interface that every hypervisor driver implements, and the capabilities that it declares.

A VM's life, as a driver sees it::

    boot(spec) ─────▶ running ⇄ paused ──save──▶ files in spec.template_dir
    restore(spec, snapshot) ─▶ running
    attach(spec, handle) ────▶ whatever it is doing        (after the manager was restarted)
    paused ──freeze──▶ files in a folder, and it can run on
    running ──the host's disk is full──▶ stalled ──resume──▶ running    (not in every driver)
    any ──kill──▶ gone

Rules that the conformance suite (``tests/conformance``) holds every driver to:

* ``boot`` and ``restore`` return with the VM running, or raise and leave no process and no file
  outside ``spec.run_dir`` behind.
* A VMM runs in a session of its own with log files of its own, so that it outlives the manager.
* ``save`` needs a paused VM and leaves it paused. The files are complete when it returns, though
  not yet synced to disk.
* Saved files are never written to again: a restore maps them privately.
* ``freeze`` needs a paused VM, which is as it was when it returns, or raises and leaves no file.
  The memory that its difference gives, and its state, are restored as saved ones are, with the disk
  as it was at that moment.
* ``kill`` is idempotent and returns only when the process is gone and reaped.
* Every error is a ``HypervisorError``; a restore that fails raises ``RestoreFailed``; talking to a
  dead VMM raises ``VmGone``. Only from compressed memory may a restore also raise
  ``SnapshotDamaged``, and ``NotSupported`` for a VM that cannot have its pages served; ``freeze``
  raises ``DiskFull``, and ``NotSupported`` for a VM that cannot be frozen.
"""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from warmboot.model.errors import HostError
from warmboot.model.runtime_snapshot import HostRequirements
from warmboot.model.vm import Disk, GuestAddress, VmHandle, VmSpec, VmStatus


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What a driver can do. The host agent asks these, never a driver's name.

    ``snapshots``: can save and restore. ``qcow2_overlays``: disks may be qcow2 overlays on a raw
    base, so a clone's disk need not be copied. ``vsock``: the guest is reached over vsock, not
    over its network. ``runs_linux``: boots an ordinary Linux kernel on this machine.
    ``lazy_memory``: a restore maps memory and does not read it all.
    ``memory_frames``: restores compressed memory without unpacking it, pages as they are touched.
    ``process``: a VM is an operating-system process. ``disk_grows``: ``grow_disk`` works.
    ``freezes``: ``freeze`` works, and ``lay_overlay`` where there are ``qcow2_overlays``.
    """

    snapshots: bool = True
    qcow2_overlays: bool = False
    vsock: bool = False
    runs_linux: bool = True
    lazy_memory: bool = True
    memory_frames: bool = False
    process: bool = True
    disk_grows: bool = False
    freezes: bool = False
    network: bool = True
    max_vcpus: int = 32


@dataclass(frozen=True, slots=True)
class Problem:
    """Something that keeps a driver from working here, and the remedy."""

    brief: str
    resolution: str = ""


@dataclass(frozen=True, slots=True)
class Probe:
    """What a driver found on this machine. Usable when ``problems`` is empty.

    ``host`` is what its snapshots are bound to. ``notes`` explain choices ("TCG, because ...").
    """

    host: HostRequirements
    capabilities: Capabilities
    binary: Path | None = None
    problems: tuple[Problem, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def usable(self) -> bool:
        return not self.problems


@dataclass(frozen=True, slots=True)
class MachineSnapshot:
    """The saved machine: guest memory and device state.

    ``compressed``: memory is a file of frames (``hypervisors.memory.frames``), for drivers with the
    capability ``memory_frames``. ``frozen``: the state is one that ``freeze`` has written.
    """

    memory: Path
    state: Path
    compressed: bool = False
    frozen: bool = False


@dataclass(frozen=True, slots=True)
class FrozenMachine:
    """A machine as it was when it was frozen: what ``MachineSnapshot`` has once ``difference``
    (``hypervisors.memory.difference``) is laid over its base.

    ``based``: that is the memory that it was restored from; else there is none, but zeros.
    """

    difference: Path
    state: Path
    based: bool


class Vm(Protocol):
    """A VM that was started, restored or found again."""

    @property
    def handle(self) -> VmHandle: ...

    async def status(self) -> VmStatus: ...

    async def pause(self) -> None: ...

    async def resume(self) -> None: ...

    async def save(self) -> MachineSnapshot:
        """Write the paused machine into ``spec.template_dir``."""
        ...

    def about_to_freeze(self, overlay: Disk | None) -> AbstractAsyncContextManager[None]:
        """Within it ``freeze``, and ``lay_overlay`` of this one, take less of the time for which
        the VM stands still: what can be done while it runs is done before. The rest is theirs."""
        ...

    async def freeze(self, folder: Path) -> FrozenMachine:
        """Write the devices' state and the memory's difference of the paused machine into
        ``folder``, which its VMM may write to. Only with the capability ``freezes``."""
        ...

    async def lay_overlay(self, overlay: Disk) -> None:
        """Have the paused VM write to ``overlay``, a new one on its writable disk, from here on:
        the file of that is never written to again. Only with ``freezes`` and
        ``qcow2_overlays``."""
        ...

    async def kill(self) -> None: ...

    async def wait_gone(self) -> None:
        """Return when the VMM process is no more; the host learns of a crash this way."""
        ...

    async def wait_stalled(self) -> None:
        """Return when the VM stands still because the host's disk is full: ``resume`` has it write
        again. Never, where the hypervisor hands that error to the guest, or the VM is gone."""
        ...

    async def grow_disk(self, size_bytes: int) -> None:
        """Make its writable disk as large as that while it runs, if it is smaller. The guest sees
        it soon after. Only with the capability ``disk_grows``."""
        ...

    def end_cause(self) -> HostError | None:
        """Why a VM that is gone was ended, where that is known and not its own doing:
        ``SnapshotDamaged`` when its memory was."""
        ...

    async def detach(self) -> None:
        """Close the sockets and tasks for the VM, which goes on running."""
        ...

    def guest_address(self, port: int) -> GuestAddress: ...


class Hypervisor(Protocol):
    """The driver of one hypervisor on this machine: it boots, restores and finds VMs."""

    name: str

    async def probe(self) -> Probe:
        """Look at the machine; never raises. Cached until the driver's program is exchanged."""
        ...

    async def boot(self, spec: VmSpec) -> Vm: ...

    async def restore(self, spec: VmSpec, snapshot: MachineSnapshot) -> Vm: ...

    async def attach(self, spec: VmSpec, handle: VmHandle) -> Vm:
        """Take over a VM that another manager process started; ``VmGone`` if it is not there."""
        ...
