"""The client of a Docker engine, the host's or a guest's: images, containers and sessions.

use case ── DockerClient ── Requests ── Place.connect ── (socket | namespace TCP | vsock) ── dockerd
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import aclosing
from datetime import datetime
from functools import partial
from typing import Any

from aiodocker.execs import Exec
from aiodocker.stream import Stream as Hijacked

from warmboot.docker.batches import joined, let_more_come
from warmboot.docker.containers.inside import Inside
from warmboot.docker.errors import (
    Fault,
    any_fault,
    command_error,
    exec_error,
    load_error,
    pull_error,
    translated,
)
from warmboot.docker.facts import ContainerFacts, EngineFacts
from warmboot.docker.place import Place
from warmboot.docker.pull import Progress, PullTimeout, no_progress
from warmboot.docker.references import with_tag
from warmboot.docker.requests import Requests, nobody_asks
from warmboot.docker.sessions import AttachedSession, chunk_of
from warmboot.model.container import ContainerSpec
from warmboot.model.conventions.multiplexed import Demultiplexer
from warmboot.model.conventions.program_start import assignments
from warmboot.model.errors import (
    Conflict,
    ContainerError,
    ImageNotFound,
    NotFound,
    RegistryUnavailable,
    WarmbootError,
)
from warmboot.model.sessions import ExecSpec, LogChunk
from warmboot.model.worker import WorkerSpec
from warmboot.system.back_off import BackOff

LOAD_TIMEOUT_S = 3600.0
"""An engine whose processor is emulated takes minutes for a gigabyte."""

START_TIMEOUT_S = 300.0
"""How long a start may take; on a machine that emulates many VMs at once it does take long."""

REMOVAL_TIMEOUT_S = 60.0

STOP_MARGIN_S = 30.0
"""How long a stop may take beyond the time that the container is given."""


class DockerClient:
    """One engine. Every method raises ``place.unavailable`` when it does not answer.

    ``container`` is a container's id or name everywhere. ``close`` when done.
    """

    def __init__(self, place: Place, on_lost: Callable[[], None] = nobody_asks) -> None:
        self.place = place
        self._ask = Requests(place, on_lost)
        self.inside = Inside(self._ask)

    async def close(self) -> None:
        await self._ask.close()

    # -- the engine ---------------------------------------------------------------------------

    async def facts(self) -> EngineFacts:
        """What the engine says of itself, asked anew."""
        version = await self._ask.json("asking for the engine's version", "GET version")
        return EngineFacts.of(version, await self.info())

    async def ping(self) -> None:
        """Return when it has answered."""
        await self._ask.do("asking whether it is there", "GET _ping")

    async def info(self) -> Mapping[str, Any]:
        """The engine's own report, as ``docker info`` shows it."""
        found: Mapping[str, Any] = await self._ask.json("asking about the engine", "GET info")
        return found

    # -- images -------------------------------------------------------------------------------

    async def image_digest(self, reference: str) -> str:
        """The image's id: ``sha256:`` of its configuration, the same on every machine."""
        found = await self._ask.json(f"looking for {reference}", f"GET images/{reference}/json")
        return str(found["Id"])

    async def image_config(self, reference: str) -> Mapping[str, Any]:
        """What the image has of its own: ``Env``, ``ExposedPorts``, ``Healthcheck``."""
        doing = f"asking for the configuration of {reference}"
        found = await self._ask.json(doing, f"GET images/{reference}/json")
        config: Mapping[str, Any] = found.get("Config") or {}
        return config

    async def has_image(self, reference: str) -> bool:
        with contextlib.suppress(ImageNotFound, NotFound):
            return bool(await self.image_digest(reference))
        return False

    async def pull(
        self,
        reference: str,
        progress: Progress = no_progress,
        timeout: PullTimeout = PullTimeout(),  # noqa: B008 - it is frozen
        platform: str = "",
    ) -> None:
        """Pull ``reference``; ``ImageNotFound``, ``RegistryUnavailable`` or ``DiskFull``."""
        messages = self._ask.messages(
            f"pulling {reference}",
            "POST images/create",
            params={"fromImage": with_tag(reference)} | _platform(platform),
            fault=partial(pull_error, reference),
        )
        try:
            async with timeout.waiting(reference) as heard, aclosing(messages):
                async for message in messages:
                    heard(message)
                    await progress(message)
        except RegistryUnavailable:
            await self.ping()  # if it is the engine that is silent, this says so
            raise

    async def load_image(self, archive: AsyncIterator[bytes] | bytes) -> list[str]:
        """Load a ``docker save`` archive (a tar, possibly compressed); what its images are named.

        One without a name is told by its id.
        """
        loaded = []
        messages = self._ask.messages(
            "loading the archive",
            "POST images/load",
            data=archive,
            timeout_s=LOAD_TIMEOUT_S,
            fault=load_error,
        )
        async with aclosing(messages):
            async for message in messages:
                for prefix in ("Loaded image: ", "Loaded image ID: "):
                    if (text := str(message.get("stream", ""))).startswith(prefix):
                        loaded.append(text.removeprefix(prefix).strip())
        return loaded

    async def tag(self, image: str, repository: str, tag: str) -> None:
        doing, params = f"naming the image {repository}:{tag}", {"repo": repository, "tag": tag}
        await self._ask.do(doing, f"POST images/{image}/tag", params=params)

    # -- containers ---------------------------------------------------------------------------

    async def create(self, name: str, config: Mapping[str, Any], platform: str = "") -> str:
        """Create (not start) a container; its id. ``NameTaken``, ``ImageNotFound``."""
        doing, params = f"creating {name}", {"name": name} | _platform(platform)
        data = dict(config)
        made = await self._ask.json(doing, "POST containers/create", params=params, data=data)
        return str(made["Id"])

    async def running(self) -> list[str]:
        """The ids of all containers that run."""
        found = await self._ask.json("listing the containers", "GET containers/json")
        return [str(one["Id"]) for one in found]

    async def which_exited(self) -> list[str]:
        """The ids of those that have run, and do not."""
        params = {"all": "1", "filters": json.dumps({"status": ["exited"]})}
        doing = "listing the containers"
        found = await self._ask.json(doing, "GET containers/json", params=params)
        return [str(one["Id"]) for one in found]

    async def container_events(self, since_s: float) -> AsyncIterator[Mapping[str, Any]]:
        """What happens to its containers, from this moment (seconds since 1970) on."""
        params = {"filters": json.dumps({"type": ["container"]}), "since": f"{since_s:.3f}"}
        doing = "following its events"
        said = self._ask.messages(doing, "GET events", fault=any_fault, params=params)
        async with contextlib.aclosing(said):
            async for message in said:
                yield message

    async def inspect(self, container: str) -> ContainerFacts:
        return ContainerFacts.of(await self.description(container))

    async def description(self, container: str) -> dict[str, Any]:
        """The engine's whole description of a container."""
        doing = "asking for the container's state"
        found: dict[str, Any] = await self._ask.json(doing, f"GET containers/{container}/json")
        return found

    async def start(self, container: str) -> None:
        """``CommandNotFound`` and ``CommandNotExecutable`` if it is the command's fault."""
        request = f"POST containers/{container}/start"
        limits = {"timeout_s": START_TIMEOUT_S}
        await self._ask.do("starting the container", request, fault=command_error, **limits)

    async def stop(
        self, container: str, timeout_s: float = 10.0, signal: str | None = None
    ) -> None:
        """``signal`` (the container's own, if ``None``), and SIGKILL after ``timeout_s``.

        Idempotent. ``place.unavailable`` if even that does nothing.
        """
        await self._ask.do(
            "stopping the container",
            f"POST containers/{container}/stop",
            params={"t": str(int(timeout_s))} | ({"signal": signal} if signal else {}),
            timeout_s=timeout_s + STOP_MARGIN_S,
        )

    async def kill(self, container: str, signal: str = "SIGKILL") -> None:
        """``Conflict`` when it is not running."""
        doing, params = f"sending {signal} to the container", {"signal": signal}
        await self._ask.do(doing, f"POST containers/{container}/kill", params=params)

    async def remove(self, container: str) -> None:
        """Remove it with its volumes and checkpoints, running or not. Idempotent.

        A removal that somebody else has asked for is waited for.
        """
        doing, params = "removing the container", {"force": "1", "v": "1"}
        with contextlib.suppress(NotFound):
            try:
                await self._ask.do(doing, f"DELETE containers/{container}", params=params)
            except Conflict as error:
                if "already in progress" not in error.details:
                    raise
                await self._until_removed(container, doing)

    async def _until_removed(self, container: str, doing: str) -> None:
        ended = await self._ask.json(
            doing,
            f"POST containers/{container}/wait",
            params={"condition": "removed"},
            timeout_s=REMOVAL_TIMEOUT_S,
            lasts=True,
        )
        if why := (ended.get("Error") or {}).get("Message"):
            raise ContainerError("the container could not be removed", details=str(why))

    async def wait_stopped(self, container: str, timeout_s: float | None = None) -> int:
        """The exit code when it does not run (any more); ``place.unavailable`` if it goes on.

        ``None`` waits as long as it takes.
        """
        ended = await self._ask.json(
            "waiting for the container",
            f"POST containers/{container}/wait",
            params={"condition": "not-running"},
            timeout_s=timeout_s,
            lasts=True,
        )
        return int(ended["StatusCode"])

    async def resize(self, container: str, rows: int, columns: int) -> None:
        await self._resize(f"containers/{container}", rows, columns)

    # -- output and sessions ------------------------------------------------------------------

    async def output(
        self,
        container: str,
        *,
        tty: bool | None = None,
        follow: bool = False,
        tail: int | None = None,
        timestamps: bool = False,
        since: datetime | None = None,
        until: datetime | None = None,
    ) -> AsyncGenerator[LogChunk, None]:
        """What it has written; ``tty``: whether it has a terminal, where that is known.

        Read from the engine only as fast as it is taken; it ends with whoever reads.
        """
        if tty is None:
            tty = (await self.inspect(container)).tty
        frames = None if tty else Demultiplexer()
        params = {
            "stdout": "1",
            "stderr": "1",
            "follow": str(int(follow)),
            "tail": "all" if tail is None else str(tail),
            "timestamps": str(int(timestamps)),
        }
        async with self._ask.answer(
            "reading the logs",
            f"GET containers/{container}/logs",
            params=params | _log_times(since, until),
            silence_s=None if follow else self.place.answer_timeout_s,
            lasts=True,
        ) as response:
            async for data in response.content.iter_any():
                for piece in [(1, data)] if frames is None else joined(frames.feed(data)):
                    yield chunk_of(*piece)
                await let_more_come(len(data))

    async def exec(self, container: str, spec: ExecSpec) -> AttachedSession:
        """Run a command in a running container; it goes on when its session is closed."""
        doing, ask = "running a command", self._ask
        config = {
            "AttachStdin": spec.stdin and not spec.detach,
            "AttachStdout": True,
            "AttachStderr": True,
            "Tty": spec.tty,
            "Cmd": list(spec.command),
            "Env": list(spec.environment),
            "User": spec.user,
            "WorkingDir": spec.working_dir,
        }
        request = f"POST containers/{container}/exec"
        made = await ask.json(doing, request, data=config, fault=exec_error)
        at = f"exec/{made['Id']}"
        stream = Exec(ask.streams, made["Id"], spec.tty).start()
        await self._begin(stream, doing, exec_error)

        async def exit_code() -> int | None:
            with contextlib.suppress(WarmbootError):
                now = await ask.json("asking for the command's end", f"GET {at}/json")
                return None if now["ExitCode"] is None else int(now["ExitCode"])
            return None

        async def begun() -> None:
            pause = BackOff(first_s=0.01, longest_s=0.1)
            while True:
                now = await ask.json("asking for the command's start", f"GET {at}/json")
                if now["Pid"] or now["ExitCode"] is not None:
                    return
                await pause.pause()

        return AttachedSession(self.place, stream, partial(self._resize, at), exit_code, begun)

    async def attach(self, container: str, *, stdin: bool, logs: bool) -> AttachedSession:
        """Attach to the container's own process; with ``logs``, earlier output is given first."""
        found = self._ask.streams.containers.container(container)
        stream = found.attach(stdout=True, stderr=True, stdin=stdin, logs=logs)
        await self._begin(stream, "attaching to the container")

        async def exit_code() -> int | None:
            now = await self.inspect(container)
            return None if now.running else now.exit_code

        return AttachedSession(self.place, stream, partial(self.resize, container), exit_code)

    async def _begin(self, stream: Hijacked, doing: str, fault: Fault = any_fault) -> None:
        with translated(self.place, doing, fault):
            async with asyncio.timeout(self.place.answer_timeout_s):
                await stream._init()

    async def _resize(self, path: str, rows: int, columns: int) -> None:
        params = {"h": str(rows), "w": str(columns)}
        await self._ask.do("resizing the terminal", f"POST {path}/resize", params=params)


def _platform(platform: str) -> dict[str, str]:
    return {"platform": platform} if platform else {}


def _log_times(since: datetime | None, until: datetime | None) -> dict[str, str]:
    """As Docker takes them: seconds since 1970, before which nobody has logged anything."""
    times: dict[str, str] = {}
    if since is not None:
        times["since"] = f"{max(0.0, since.timestamp()):.6f}"
    if until is not None:
        # Docker's are finer than ours: to the end of that microsecond.
        times["until"] = f"{max(0.0, until.timestamp()):.6f}999"
    return times


def config_of(
    spec: ContainerSpec | WorkerSpec, environment: Mapping[str, str], host_config: Mapping[str, Any]
) -> dict[str, Any]:
    """What a container is created with, wherever it runs; its spec's own environment wins."""
    config: dict[str, Any] = {
        "Image": spec.image,
        "Env": assignments({**environment, **spec.environment}),
        "Labels": dict(spec.labels),
        "Tty": spec.tty,
        "HostConfig": dict(host_config),
    }
    if spec.command is not None:
        config["Cmd"] = list(spec.command)
    if spec.entrypoint is not None:
        config["Entrypoint"] = list(spec.entrypoint)
    return config
