"""``warmboot.client.engines.engines`` without ``await``, by ``scripts/sync_client.py``."""

from __future__ import annotations

import builtins
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

from warmboot.client.engines.engines import Engine  # keep
from warmboot.client.engines.engines import Engines as _Engines
from warmboot.client.sync.portal import Portal


class Engines:
    def __init__(self, portal: Portal, of: _Engines) -> None:
        self._portal, self._of = portal, of

    def create(self, **fields: Any) -> str:
        """Create and start an engine; its id. ``fields`` as in POST /v1/engines."""
        return self._portal.run(lambda: self._of.create(**fields))

    def wait(self, ref: str, until: str = "running", timeout_s: float | None = None) -> Engine:
        """The engine when it is so, has failed, or the time (``None``: no end) is over."""
        return self._portal.run(lambda: self._of.wait(ref, until, timeout_s))

    def start(self, ref: str) -> None:
        self._portal.run(lambda: self._of.start(ref))

    def stop(self, ref: str, timeout_s: float | None = None) -> None:
        self._portal.run(lambda: self._of.stop(ref, timeout_s))

    def pause(self, ref: str) -> None:
        """Have its VM stand still in memory."""
        self._portal.run(lambda: self._of.pause(ref))

    def unpause(self, ref: str) -> None:
        """Have it go on where it was, with the time of now."""
        self._portal.run(lambda: self._of.unpause(ref))

    def snapshot(self, ref: str, name: str) -> str:
        """Freeze it, as it runs, into a snapshot of this name; the snapshot's id."""
        return self._portal.run(lambda: self._of.snapshot(ref, name))

    def fork(self, ref: str, count: int = 1) -> builtins.list[Engine]:
        """So many engines that go on from it as it is now: all of them run, or none is left."""
        return self._portal.run(lambda: self._of.fork(ref, count))

    def running(self, **fields: Any) -> AbstractContextManager[Engine]:
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
        return self._portal.run(lambda: self._of.get(ref))

    def delete(self, ref: str, *, force: bool = False) -> None:
        self._portal.run(lambda: self._of.delete(ref, force=force))
