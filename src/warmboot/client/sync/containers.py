"""``warmboot.client.containers.containers`` without ``await``, by ``scripts/sync_client.py``."""

from __future__ import annotations

import builtins
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from datetime import datetime
from typing import Any, Unpack

from warmboot.client.containers.containers import Containers as _Containers
from warmboot.client.containers.conveniences import Finished
from warmboot.client.containers.fields import ContainerFields, ExecFields
from warmboot.client.results import Container, LogChunk
from warmboot.client.sync.portal import Portal, Session
from warmboot.client.usage import ContainerStats, HealthReport


class Containers:
    """Containers, each in a VM of its own; ``ref`` is a name, an id, or the beginning of an id."""

    def __init__(self, portal: Portal, of: _Containers) -> None:
        self._portal, self._of = portal, of

    def create(
        self,
        image: str,
        command: Sequence[str] | None = None,
        *,
        name: str | None = None,
        entrypoint: Sequence[str] | None = None,
        environment: Mapping[str, str | None] | None = None,
        ports: Sequence[Mapping[str, Any]] | None = None,
        publish_all: bool | None = None,
        shape: Mapping[str, int] | None = None,
        boot: str | None = None,
        runtime_image_id: str | None = None,
        archive: str | None = None,
        tty: bool | None = None,
        stdin_open: bool | None = None,
        auto_remove: bool | None = None,
        attach: bool | None = None,
        start: bool | None = None,
        labels: Mapping[str, str] | None = None,
        user: str | None = None,
        working_dir: str | None = None,
        hostname: str | None = None,
        stop_signal: str | None = None,
        stop_timeout_s: int | None = None,
        options: Mapping[str, Any] | None = None,
        folders: Sequence[Mapping[str, Any]] | None = None,
        owner_uid: int | None = None,
        park_at_shutdown: bool | None = None,
        park_after_idle_s: float | None = None,
    ) -> str:
        """Create a container, and start it unless ``start=False``; returns its id.

        What is not given is the API's default. ``ports``: ``[{"container_port": 80}]``, published
        at any free port unless they have a ``host_port``. ``shape``: ``{"vcpus": 2, "memory_mib":
        512}``. ``options``: Docker's, as in POST /v1/containers. ``folders``: of that machine, in
        which is what ``options`` bind, ``[{"path": "/srv/code", "read_only": True}]``, with the
        rights of its user ``owner_uid``. ``park_at_shutdown``: when the manager stops; it is woken
        when that starts. ``park_after_idle_s``: when nobody has used it for so many seconds.
        """
        return self._portal.run(
            lambda: self._of.create(
                image,
                command,
                name=name,
                entrypoint=entrypoint,
                environment=environment,
                ports=ports,
                publish_all=publish_all,
                shape=shape,
                boot=boot,
                runtime_image_id=runtime_image_id,
                archive=archive,
                tty=tty,
                stdin_open=stdin_open,
                auto_remove=auto_remove,
                attach=attach,
                start=start,
                labels=labels,
                user=user,
                working_dir=working_dir,
                hostname=hostname,
                stop_signal=stop_signal,
                stop_timeout_s=stop_timeout_s,
                options=options,
                folders=folders,
                owner_uid=owner_uid,
                park_at_shutdown=park_at_shutdown,
                park_after_idle_s=park_after_idle_s,
            )
        )

    def run(
        self,
        image: str,
        command: Sequence[str] | None = None,
        *,
        timeout_s: float | None = None,
        **fields: Unpack[ContainerFields],
    ) -> Finished:
        """Run a container to its end, and collect what it writes; nothing of it is left.

        ``fields`` as for ``create``. ``TimeoutError`` if it takes longer than ``timeout_s``.
        """
        return self._portal.run(lambda: self._of.run(image, command, timeout_s=timeout_s, **fields))

    def run_command(
        self,
        ref: str,
        command: Sequence[str],
        *,
        stdin: bytes = b"",
        timeout_s: float | None = None,
        **options: Unpack[ExecFields],
    ) -> Finished:
        """Run a command in a running container to its end, and collect what it writes.

        ``options`` as for ``exec``. ``TimeoutError`` if it takes longer than ``timeout_s``; it is
        not ended then.
        """
        return self._portal.run(
            lambda: self._of.run_command(ref, command, stdin=stdin, timeout_s=timeout_s, **options)
        )

    def wait_for_port(
        self, ref: str, container_port: int, *, timeout_s: float = 60.0
    ) -> tuple[str, int]:
        """The address on the manager's machine, once a TCP connection to it is accepted there.

        ``Conflict`` if the container has ended, or does not publish the port; ``TimeoutError``. To
        be called on the manager's machine.
        """
        return self._portal.run(
            lambda: self._of.wait_for_port(ref, container_port, timeout_s=timeout_s)
        )

    def list(
        self,
        *,
        all_states: bool = False,
        states: Sequence[str] = (),
        labels: Sequence[str] = (),
        name: str = "",
    ) -> builtins.list[Container]:
        """Those in ``states`` that have all ``labels`` and ``name`` in their name."""
        return self._portal.run(
            lambda: self._of.list(all_states=all_states, states=states, labels=labels, name=name)
        )

    def iterate(
        self,
        *,
        all_states: bool = False,
        states: Sequence[str] = (),
        labels: Sequence[str] = (),
        name: str = "",
    ) -> Iterator[Container]:
        """As ``list``, newest first; the next part is asked for when it is needed."""
        return self._portal.iterate(
            self._of.iterate(all_states=all_states, states=states, labels=labels, name=name)
        )

    def wait(self, ref: str, until: str = "exited", timeout_s: float | None = None) -> Container:
        """The container when it is so, has failed, or the time (``None``: no end) is over."""
        return self._portal.run(lambda: self._of.wait(ref, until, timeout_s))

    def rename(self, ref: str, name: str) -> Container:
        """Give it another name; its host name stays as it is. ``NameTaken``."""
        return self._portal.run(lambda: self._of.rename(ref, name))

    def stats(self, ref: str) -> ContainerStats:
        """What it uses, as its Docker counts it; this takes a second or two."""
        return self._portal.run(lambda: self._of.stats(ref))

    def health(self, ref: str) -> HealthReport:
        """What its health check has found, with its last runs."""
        return self._portal.run(lambda: self._of.health(ref))

    def start(self, ref: str) -> None:
        """Start one that was only created, has exited or failed; returns when that has begun."""
        self._portal.run(lambda: self._of.start(ref))

    def stop(self, ref: str, timeout_s: float | None = None, signal: str | None = None) -> None:
        """``signal``, then SIGKILL; both and the time between, if not given, are its own."""
        self._portal.run(lambda: self._of.stop(ref, timeout_s, signal))

    def kill(self, ref: str, signal: str = "SIGKILL") -> None:
        """Send its process a signal, by name."""
        self._portal.run(lambda: self._of.kill(ref, signal))

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

    def fork(
        self, ref: str, count: int = 1, *, writable_folders: bool = False
    ) -> builtins.list[Container]:
        """So many that go on from it as it is now: all of them run, or none is left. They read
        folders of the host; with ``writable_folders`` they write to them as it does.
        """
        return self._portal.run(
            lambda: self._of.fork(ref, count, writable_folders=writable_folders)
        )

    def forked(self, ref: str) -> AbstractContextManager[Container]:
        """One that goes on from it as it is now, and is removed at the end."""
        return self._portal.entered(self._of.forked(ref), self._portal.value)

    def restart(self, ref: str, timeout_s: float | None = None) -> None:
        """Stop it as ``stop`` does, and start it; returns when it runs or is being booted."""
        self._portal.run(lambda: self._of.restart(ref, timeout_s))

    def logs(
        self,
        ref: str,
        *,
        follow: bool = False,
        tail: int | None = None,
        timestamps: bool = False,
        since: datetime | None = None,
        until: datetime | None = None,
    ) -> Iterator[LogChunk]:
        """The container's output; ``since`` and ``until`` are times with a time zone."""
        return self._portal.iterate(
            self._of.logs(
                ref, follow=follow, tail=tail, timestamps=timestamps, since=since, until=until
            )
        )

    def boot_log(self, ref: str) -> str:
        """What its guest has said on its console since its VM was booted or restored."""
        return self._portal.run(lambda: self._of.boot_log(ref))

    def exec(
        self,
        ref: str,
        command: Sequence[str],
        *,
        tty: bool | None = None,
        stdin: bool | None = None,
        detach: bool | None = None,
        environment: Sequence[str] | None = None,
        user: str | None = None,
        working_dir: str | None = None,
        rows: int | None = None,
        columns: int | None = None,
    ) -> AbstractContextManager[Session]:
        """Run a command in a running container.

        ``stdin``: it is written to. ``detach``: it is only begun. ``environment``: ``NAME=value``,
        ``NAME`` alone takes it away. ``rows`` and ``columns`` are the size of its ``tty``.
        """
        return self._portal.entered(
            self._of.exec(
                ref,
                command,
                tty=tty,
                stdin=stdin,
                detach=detach,
                environment=environment,
                user=user,
                working_dir=working_dir,
                rows=rows,
                columns=columns,
            ),
            self._portal.session,
        )

    def attach(
        self, ref: str, *, logs: bool = True, start: bool = False
    ) -> AbstractContextManager[Session]:
        """The container's own process; with ``logs``, from its first output on.

        One that is being created is waited for. If it was created with ``attach``, it is started
        only when the session has begun. So is one that does not run, with ``start``.
        """
        return self._portal.entered(
            self._of.attach(ref, logs=logs, start=start), self._portal.session
        )

    def get(self, ref: str) -> Container:
        """The one that is called so. ``NotFound``."""
        return self._portal.run(lambda: self._of.get(ref))

    def delete(self, ref: str, *, force: bool = False) -> None:
        """Remove it, with ``force`` also while it runs. ``NotFound``, ``InUse``."""
        self._portal.run(lambda: self._of.delete(ref, force=force))
