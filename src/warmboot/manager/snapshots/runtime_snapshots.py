"""Runtime snapshots, as the API offers them."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from uuid import UUID, uuid4

from warmboot.docker.references import with_tag
from warmboot.host.agent import HostAgent
from warmboot.manager.core.background import Work
from warmboot.manager.core.event_log import EventLog
from warmboot.manager.core.tasks import Tasks
from warmboot.manager.garbage.choose_garbage import active_count, image_count
from warmboot.manager.garbage.collect_garbage import CollectGarbage
from warmboot.manager.images.choose_image import choose_image
from warmboot.manager.snapshots.build_image_snapshot import BuildImageSnapshot
from warmboot.manager.snapshots.build_snapshot import BuildSnapshot
from warmboot.manager.snapshots.plan_rebuilds import RetryPolicy
from warmboot.manager.snapshots.retries import note_failed_build
from warmboot.model.errors import Conflict, IllegalTransition, InUse, NotFound, NotSupported
from warmboot.model.runtime_snapshot import (
    IMAGE,
    BuildCause,
    Depth,
    HostRequirements,
    RuntimeSnapshot,
    SnapshotState,
    check_weight,
)
from warmboot.model.shapes import Shape
from warmboot.model.snapshot_fit import Fit, fit_of
from warmboot.store import Store


class RuntimeSnapshots:
    """Implements ``protocols.RuntimeSnapshots``."""

    def __init__(
        self,
        store: Store,
        host: HostAgent,
        events: EventLog,
        tasks: Tasks,
        build: BuildSnapshot,
        build_with_image: BuildImageSnapshot,
        garbage: CollectGarbage,
        *,
        default_shape: Shape,
        max_active: int,
        max_images: int,
        on_built: Callable[[], None] = lambda: None,
        retry: RetryPolicy | None = None,
    ) -> None:
        self._store = store
        self._host = host
        self._events = events
        self._tasks = tasks
        self._build = build
        self._build_with_image = build_with_image
        self._garbage = garbage
        self._default_shape = default_shape
        self._max_active = max_active
        self._max_images = max_images
        self._on_built = on_built
        self._retry = retry or RetryPolicy()
        self._beginning = asyncio.Lock()

    async def list(self, *, include_deleted: bool = False) -> Sequence[RuntimeSnapshot]:
        return await self._store.snapshots.list(include_deleted=include_deleted)

    async def get(self, snapshot_id: UUID) -> RuntimeSnapshot:
        return await self._store.snapshots.get(snapshot_id)

    async def fit(self, snapshot: RuntimeSnapshot) -> Fit:
        """Whether it can be used on this host as it is now, and why not."""
        return fit_of(snapshot, (await self._host.probe()).host)

    async def create(
        self,
        runtime_image_id: UUID,
        shape: Shape | None,
        *,
        cause: BuildCause = BuildCause.REQUESTED,
    ) -> UUID:
        """Begin another version, unless one of this image and shape has come meanwhile: that one.

        It is being made, or its image's registration made it and no boot has used it yet. A rebuild
        is not meant by this: it takes the place of another.
        """
        wanted = shape or self._default_shape
        self._host.capacity().check(wanted, self._default_shape)
        async with self._beginning:
            for other in await self._store.snapshots.for_image(runtime_image_id, wanted):
                if other.replaces is None and await self._is_meant(other):
                    return other.id
            await self._host.storage.ensure_room()  # before another one goes to make a place
            await self._check_capacity()
            return await self._begin(runtime_image_id, wanted, None, cause)

    async def prepare_image(
        self,
        reference: str,
        runtime_image_id: UUID | None,
        shape: Shape | None,
        *,
        cause: BuildCause = BuildCause.REQUESTED,
    ) -> UUID:
        """Begin a snapshot with this image in it; the one that there is serves until it is ready.

        One that is being made is meant by this, too. ``Conflict`` if no version serves to begin it
        from, or there are too many already.
        """
        name, wanted = with_tag(reference), shape or self._default_shape
        self._host.capacity().check(wanted, self._default_shape)
        image_id = await choose_image(self._store, runtime_image_id)
        async with self._beginning:
            there = [
                one
                for one in await self._store.snapshots.with_image(image_id, name)
                if one.shape == wanted
            ]
            for other in there:
                if other.state is SnapshotState.CREATING:
                    return other.id
            # Before another one goes to make a place.
            await self._host.storage.ensure_room()
            probe = await self._host.probe()
            if probe.capabilities.freezes:
                await self._base(image_id, wanted, probe.host, name)
            if not there:
                await self._check_image_capacity()
            replaces = there[0].id if there else None
            return await self._begin(image_id, wanted, replaces, cause, name)

    async def image_moved(self, snapshot_id: UUID, digest: str) -> None:
        """Its image's tag was pulled anew, and is of another image now: it serves no more, and is
        rebuilt."""
        moved = await self._store.snapshots.get(snapshot_id)
        if moved.depth is not Depth.IMAGE:
            return
        error = Conflict(
            f"{moved.image} is another image now",
            details=f"it was pulled as {digest}",
            resolution=f"`warmboot image prepare {moved.image}`, unless it is rebuilt by itself",
        ).as_dict()
        with contextlib.suppress(IllegalTransition):  # somebody was faster, or it was deleted
            async with self._events.transaction() as emit:
                # Rebuilds that failed for another cause say nothing about this one.
                await self._store.snapshots.set_state(
                    snapshot_id,
                    SnapshotState.UNHEALTHY,
                    error=error,
                    rebuild_failures=0,
                    rebuild_not_before=None,
                    rebuild_put_off_by=None,
                )
                await emit("runtime-snapshot.unhealthy", snapshot_id, error=error)
            self._on_built()

    async def _is_meant(self, other: RuntimeSnapshot) -> bool:
        if other.state is SnapshotState.CREATING:
            return True
        untouched = other.cause is BuildCause.REGISTERED and other.last_used_at is None
        untouched = untouched and other.state is SnapshotState.READY and not other.failure_count
        return untouched and (await self.fit(other)).usable

    async def ensure(self, runtime_image_id: UUID) -> tuple[UUID, bool]:
        """A snapshot of the default shape, in whatever state: its id, and whether it was begun."""
        known = await self._store.snapshots.for_image(runtime_image_id, self._default_shape)
        if known:
            return known[0].id, False
        cause = BuildCause.REGISTERED
        return await self.create(runtime_image_id, None, cause=cause), True

    async def set_traits(
        self, snapshot_id: UUID, *, weight: float | None = None, pinned: bool | None = None
    ) -> RuntimeSnapshot:
        """``Conflict`` if it was deleted, ``InvalidRequest`` on a bad weight, ``NotFound``."""
        checked = None if weight is None else check_weight(weight)
        changed = await self._store.snapshots.set_traits(snapshot_id, weight=checked, pinned=pinned)
        await self._events.emit(
            "runtime-snapshot.changed", snapshot_id, weight=changed.weight, pinned=changed.pinned
        )
        return changed

    async def rebuild(self, snapshot_id: UUID) -> UUID:
        """The old one serves until its successor is ready; one rebuild at a time.

        As a user has ordered it, what failed before is forgotten.
        """
        new_id = await self.rebuild_for(snapshot_id, BuildCause.REQUESTED)
        await self._store.snapshots.forget_rebuild_failures(snapshot_id)
        return new_id

    async def rebuild_for(self, snapshot_id: UUID, cause: BuildCause) -> UUID:
        async with self._beginning:
            return await self._rebuild(snapshot_id, cause)

    async def _rebuild(self, snapshot_id: UUID, cause: BuildCause) -> UUID:
        old = await self._store.snapshots.get(snapshot_id)
        if old.state in (SnapshotState.CREATING, SnapshotState.DELETED):
            raise IllegalTransition(
                f"the runtime snapshot {snapshot_id} is {old.state}: it cannot be rebuilt",
                resolution="`warmboot snapshot create` builds a new one",
            )
        if not old.is_reproducible:
            raise NotSupported(
                f"the snapshot {old.name or old.id} is of an engine in use: nothing rebuilds it",
                resolution="freeze an engine again: `warmboot engine snapshot ENGINE --name NAME`",
            )
        for other in await self._store.snapshots.list():
            if other.replaces == snapshot_id and other.state is SnapshotState.CREATING:
                raise Conflict(
                    f"the runtime snapshot {snapshot_id} is already being rebuilt",
                    details=f"its successor is {other.id}",
                )
        return await self._begin(old.runtime_image_id, old.shape, snapshot_id, cause, old.image)

    async def delete(self, snapshot_id: UUID) -> None:
        snapshot = await self._store.snapshots.get(snapshot_id)
        if snapshot.state is SnapshotState.DELETED:
            raise NotFound(f"there is no runtime snapshot {snapshot_id} (it was deleted)")
        if upper := await self._store.snapshots.lying_on(snapshot_id):
            names = [one.name or str(one.id) for one in upper]
            raise InUse(
                f"the runtime snapshot {snapshot_id} is in use",
                details=f"these snapshots lie on it: {', '.join(names)}",
                resolution=f"remove those first: `warmboot snapshot rm {' '.join(names)}`",
            )
        await self._store.snapshots.set_state(snapshot_id, SnapshotState.DELETED)
        await self._tasks.cancel(_key(snapshot_id))
        await self._events.emit("runtime-snapshot.deleted", snapshot_id)
        if snapshot.state is SnapshotState.CREATING and snapshot.cause.automatic:
            await self._was_stopped(snapshot)
        await self._garbage.collect_released()

    async def _was_stopped(self, rebuild: RuntimeSnapshot) -> None:
        """Somebody did not want it now: the next one by itself is not begun at once."""
        if rebuild.replaces is not None:
            stopped = Conflict("the rebuild was deleted while it was being built")
            await note_failed_build(
                self._store, self._events, self._retry, rebuild.replaces, stopped
            )
        self._on_built()

    def resume(self, snapshot_id: UUID) -> None:
        """Build (again) a snapshot that is in ``creating``."""

        async def work() -> None:
            snapshot = await self._store.snapshots.get(snapshot_id)
            if snapshot.depth is Depth.IMAGE:
                await self._build_with_image(snapshot_id)
                await self._garbage.keep_to_image_budget()
            else:
                await self._build(snapshot_id)
            self._on_built()
            await self._garbage.collect_released()

        self._tasks.keep_going(Work.BUILD_SNAPSHOTS, _key(snapshot_id), work)

    async def _begin(
        self,
        image_id: UUID,
        shape: Shape,
        replaces: UUID | None,
        cause: BuildCause,
        reference: str | None = None,
    ) -> UUID:
        """``reference``: one of the depth ``image``, with this image in it."""
        await self._host.storage.ensure_room()
        probe = await self._host.probe()
        if not probe.capabilities.snapshots or not probe.usable:
            raise NotSupported(
                "this host cannot build snapshots",
                details="; ".join(problem.brief for problem in probe.problems),
                resolution="see `warmboot doctor`",
            )
        snapshot_id = uuid4()
        row = RuntimeSnapshot(
            id=snapshot_id,
            runtime_image_id=image_id,
            snapshot_path=self._host.snapshots.path(image_id, snapshot_id),
            state=SnapshotState.CREATING,
            hypervisor=probe.host.hypervisor,
            fc_version=probe.host.hypervisor_version,
            shape=shape,
            created_at=datetime.now(UTC),
            replaces=replaces,
            cause=cause,
        )
        if reference is not None:
            if not probe.capabilities.freezes:
                raise NotSupported(
                    f"this host's {probe.host.hypervisor} cannot freeze VMs in use",
                    resolution="use QEMU or Firecracker (MANAGER_HYPERVISOR)",
                )
            base = await self._base(image_id, shape, probe.host, reference)
            known = {IMAGE: reference}
            row = replace(row, depth=Depth.IMAGE, metadata=known, parent_id=base.id)
        async with self._events.transaction() as emit:
            added = await self._store.snapshots.add(row)
            if row.parent_id is not None:
                await self._store.snapshots.lease(row.parent_id, str(snapshot_id))
            await emit(
                "runtime-snapshot.creating",
                snapshot_id,
                replaces=replaces,
                cause=cause,
                version=added.version,
            )
        self.resume(snapshot_id)
        return snapshot_id

    async def _base(
        self, image_id: UUID, shape: Shape, here: HostRequirements, reference: str
    ) -> RuntimeSnapshot:
        """The version that one of the depth ``image`` is begun from: the newest that is usable."""
        for version in await self._store.snapshots.for_image(image_id, shape):
            if fit_of(version, here).usable:
                return version
        raise Conflict(
            f"{reference} cannot be prepared: no runtime snapshot of {shape} is ready",
            details="it is begun from one of the same runtime image and shape",
            resolution="`warmboot snapshot create RUNTIME` builds one; see `warmboot snapshot ls`",
        )

    async def _check_image_capacity(self) -> None:
        """Room for one more of the depth ``image``."""
        if image_count(await self._store.snapshots.list()) >= self._max_images:
            await self._garbage.make_room(Depth.IMAGE)
        count = image_count(await self._store.snapshots.list())
        if count >= self._max_images:
            raise Conflict(
                f"{count} images are prepared already, and none of them can be removed",
                details=f"MANAGER_MAX_IMAGE_SNAPSHOTS is {self._max_images}; each is pinned, in "
                "use, or being built",
                resolution="remove one (`warmboot image rm`), or raise the limit",
            )

    async def _check_capacity(self) -> None:
        """Room for one more: the least used one goes, unless all are pinned or in use."""
        if active_count(await self._store.snapshots.list()) >= self._max_active:
            await self._garbage.make_room()
        count = active_count(await self._store.snapshots.list())
        if count >= self._max_active:
            raise Conflict(
                f"there are {count} runtime snapshots already, and none of them can be removed",
                details=f"MANAGER_MAX_RUNTIME_SNAPSHOTS is {self._max_active}; each is pinned, in "
                "use, or being built",
                resolution="delete one (`warmboot snapshot rm`), unpin one, or raise the limit",
            )


def _key(snapshot_id: UUID) -> str:
    return f"build {snapshot_id}"
