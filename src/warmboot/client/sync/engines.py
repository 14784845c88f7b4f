"""``warmboot.client.engines.engines`` without ``await``, by ``scripts/sync_client.py``."""

from __future__ import annotations

import builtins
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, Unpack

from warmboot.client.engines.engines import Engine  # keep
from warmboot.client.engines.engines import Engines as _Engines
from warmboot.client.engines.fields import EngineFields
from warmboot.client.sync.portal import Portal


class Engines:
    """Engines, each a Docker in a VM of its own; ``ref`` is a name, an id, or its beginning."""

    def __init__(self, portal: Portal, of: _Engines) -> None:
        self._portal, self._of = portal, of

    def create(
        self,
        *,
        name: str | None = None,
        shape: Mapping[str, int] | None = None,
        boot: str | None = None,
        snapshot: str | None = None,
        runtime_image_id: str | None = None,
        disk_mib: int | None = None,
        owner_uid: int | None = None,
        labels: Mapping[str, str] | None = None,
        host_ports: Sequence[int] | None = None,
        folders: Sequence[Mapping[str, Any]] | None = None,
        tcp: Mapping[str, Any] | None = None,
        auto_remove: bool | None = None,
        time_to_live_s: float | None = None,
        holder: Mapping[str, int] | None = None,
        park_at_shutdown: bool | None = None,
        park_after_idle_s: float | None = None,
    ) -> str:
        """Create an engine and begin its start; returns its id.

        What is not given is the API's default. ``shape``: ``{"vcpus": 2, "memory_mib": 2048}``.
        ``boot``: ``auto`` or ``cold``. ``snapshot``: of an engine, by name or id, from which it
        goes on. ``owner_uid``: the user of the manager's machine who gets its socket.
        ``host_ports``: TCP ports of that machine's 127.0.0.1 that it may reach, at 198.18.0.1.
        ``folders``: of that machine, which its containers can mount,
        ``[{"path": "/srv/code", "read_only": False}]``.
        ``tcp``: ``{"address": "127.0.0.1", "port": 2376}``, where it is reached over TLS, too.
        ``auto_remove``: when it has stopped; ``time_to_live_s``: after so many seconds;
        ``holder``: when this process has ended, ``{"pid": 1234, "start_time_ticks": 5678}``.
        ``park_at_shutdown``: when the manager stops; it is woken when that starts.
        ``park_after_idle_s``: when nobody has used it for so many seconds.
        """
        return self._portal.run(
            lambda: self._of.create(
                name=name,
                shape=shape,
                boot=boot,
                snapshot=snapshot,
                runtime_image_id=runtime_image_id,
                disk_mib=disk_mib,
                owner_uid=owner_uid,
                labels=labels,
                host_ports=host_ports,
                folders=folders,
                tcp=tcp,
                auto_remove=auto_remove,
                time_to_live_s=time_to_live_s,
                holder=holder,
                park_at_shutdown=park_at_shutdown,
                park_after_idle_s=park_after_idle_s,
            )
        )

    def wait(self, ref: str, until: str = "running", timeout_s: float | None = None) -> Engine:
        """The engine when it is so, has failed, or the time (``None``: no end) is over."""
        return self._portal.run(lambda: self._of.wait(ref, until, timeout_s))

    def start(self, ref: str) -> None:
        """Start one that is stopped or has failed, on its disk; returns when that has begun."""
        self._portal.run(lambda: self._of.start(ref))

    def stop(self, ref: str, timeout_s: float | None = None) -> None:
        """Stop its containers, each within ``timeout_s``, then its VM; its disk is kept."""
        self._portal.run(lambda: self._of.stop(ref, timeout_s))

    def pause(self, ref: str) -> None:
        """Have its VM stand still in memory."""
        self._portal.run(lambda: self._of.pause(ref))

    def unpause(self, ref: str) -> None:
        """Have it go on where it was, with the time of now."""
        self._portal.run(lambda: self._of.unpause(ref))

    def park(self, ref: str) -> None:
        """Have its memory on the disk, and no VM, when this returns."""
        self._portal.run(lambda: self._of.park(ref))

    def wake(self, ref: str) -> None:
        """Have it go on where it was when it was parked, with the time of now."""
        self._portal.run(lambda: self._of.wake(ref))

    def snapshot(self, ref: str, name: str) -> str:
        """Freeze it, as it runs, into a snapshot of this name; the snapshot's id."""
        return self._portal.run(lambda: self._of.snapshot(ref, name))

    def fork(
        self, ref: str, count: int = 1, *, writable_folders: bool = False
    ) -> builtins.list[Engine]:
        """So many engines that go on from it as it is now: all of them run, or none is left. They
        read folders of the host; with ``writable_folders`` they write to them as it does.
        """
        return self._portal.run(
            lambda: self._of.fork(ref, count, writable_folders=writable_folders)
        )

    def running(self, **fields: Unpack[EngineFields]) -> AbstractContextManager[Engine]:
        """An engine that runs, and is removed at the end. ``fields`` as for ``create``."""
        return self._portal.entered(self._of.running(**fields), self._portal.value)

    def forked(self, ref: str) -> AbstractContextManager[Engine]:
        """One that goes on from it as it is now, and is removed at the end."""
        return self._portal.entered(self._of.forked(ref), self._portal.value)

    def snapshotted(self, ref: str, name: str) -> AbstractContextManager[str]:
        """The id of a snapshot of it as it is now, which is removed at the end."""
        return self._portal.entered(self._of.snapshotted(ref, name), self._portal.value)

    def log_in(self, ref: str, logins: Sequence[Mapping[str, str]]) -> None:
        """Have it pull, push and build with these; each as in PUT …/registry-logins."""
        self._portal.run(lambda: self._of.log_in(ref, logins))

    def boot_log(self, ref: str) -> str:
        """What its guest has said on its console since its VM was booted or restored."""
        return self._portal.run(lambda: self._of.boot_log(ref))

    def certificates(self, ref: str) -> Mapping[str, str]:
        """``ca``, ``cert`` and ``key``, in PEM: for who reaches it over TCP; ``expires_at``."""
        return self._portal.run(lambda: self._of.certificates(ref))

    def renew_certificates(self, ref: str) -> None:
        """Have new ones; with the former nobody gets in any more."""
        self._portal.run(lambda: self._of.renew_certificates(ref))

    def disk(self, ref: str) -> Mapping[str, int | None]:
        """``stored_bytes`` on the host; ``size_bytes`` and ``used_bytes`` in the guest, if it
        can be asked.
        """
        return self._portal.run(lambda: self._of.disk(ref))

    def list(
        self, *, states: Sequence[str] = (), labels: Sequence[str] = (), name: str = ""
    ) -> builtins.list[Engine]:
        """Those in ``states`` that have all ``labels`` and ``name`` in their name."""
        return self._portal.run(lambda: self._of.list(states=states, labels=labels, name=name))

    def iterate(
        self, *, states: Sequence[str] = (), labels: Sequence[str] = (), name: str = ""
    ) -> Iterator[Engine]:
        """As ``list``, newest first; the next page is asked for when it is needed."""
        return self._portal.iterate(self._of.iterate(states=states, labels=labels, name=name))

    def get(self, ref: str) -> Engine:
        """The one that is called so. ``NotFound``."""
        return self._portal.run(lambda: self._of.get(ref))

    def delete(self, ref: str, *, force: bool = False) -> None:
        """Remove it, with ``force`` also while it runs. ``NotFound``, ``InUse``."""
        self._portal.run(lambda: self._of.delete(ref, force=force))
