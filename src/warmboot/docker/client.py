"""The client of a Docker engine: the requests that workers need, with errors translated.

aiodocker does the talking. Docker's checkpoint endpoints are experimental and not in aiodocker, so
they are asked for by path.
"""

from __future__ import annotations

import codecs
import contextlib
import json
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import aclosing
from pathlib import Path
from typing import Any, Self

import aiohttp
from aiodocker import Docker

from warmboot.docker.errors import NOT_IN_TIME, raise_streamed, translated
from warmboot.docker.facts import ContainerFacts, EngineFacts
from warmboot.model.conventions.multiplexed import Demultiplexer
from warmboot.model.errors import Conflict, EngineUnavailable, NotFound, RegistryUnavailable
from warmboot.model.worker import WorkerSpec

DEFAULT_SOCKET = Path("/var/run/docker.sock")
ANSWER_TIMEOUT_S = 30.0
IMAGE_TIMEOUT_S = 1800.0
REGISTRY_SILENCE_S = 120.0


class DockerEngine:
    """One engine. An async context manager; every method may raise ``EngineUnavailable``.

    ``container`` is a container's id or name everywhere.
    """

    def __init__(
        self, socket: Path = DEFAULT_SOCKET, *, answer_timeout_s: float = ANSWER_TIMEOUT_S
    ) -> None:
        self.socket = socket
        self._answer_timeout_s = answer_timeout_s
        self._client: Any = None
        self._connector: aiohttp.UnixConnector | None = None
        self._facts: EngineFacts | None = None

    async def __aenter__(self) -> Self:
        # One long request a running worker waits for its end, so there is no limit.
        self._connector = aiohttp.UnixConnector(str(self.socket), limit=0)
        # Before the first of our requests the library asks for the version by itself.
        limit = aiohttp.ClientTimeout(total=self._answer_timeout_s)
        self._client = Docker(url="unix://localhost", connector=self._connector, timeout=limit)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        if self._client is not None:
            await self._client.close()
            self._client = None
        if self._connector is not None:
            await self._connector.close()
            self._connector = None

    # -- the engine ---------------------------------------------------------------------------

    async def facts(self) -> EngineFacts:
        """What the engine says of itself, asked anew."""
        version = await self._json("GET", "version")
        info = await self._json("GET", "info")
        self._facts = EngineFacts.of(version, info)
        return self._facts

    async def remembered_facts(self) -> EngineFacts:
        """As ``facts``, but asked once: an engine does not change while it runs.

        A lost connection forgets them, for what answers next may be another version.
        """
        return self._facts or await self.facts()

    # -- images -------------------------------------------------------------------------------

    async def load_image(self, archive: AsyncIterator[bytes] | bytes) -> None:
        """Load a ``docker save`` archive (a tar, possibly compressed)."""
        async with self._answer(
            "POST", "images/load", what="image", data=archive, timeout_s=IMAGE_TIMEOUT_S
        ) as response:
            text = await response.text()
        raise_streamed(text, "the engine did not load the image")

    async def pull(self, image: str, *, silence_s: float = REGISTRY_SILENCE_S) -> None:
        """Pull ``image``; ``ImageNotFound`` when the registry does not have it.

        ``RegistryUnavailable`` when nothing has come of it for ``silence_s``.
        """
        params = (
            {"fromImage": image}
            if ":" in image.rpartition("/")[2] or "@" in image
            else {
                "fromImage": image,
                "tag": "latest",
            }
        )
        limits = {"timeout_s": IMAGE_TIMEOUT_S, "silence_s": silence_s}
        try:
            async with self._answer(
                "POST", "images/create", what="image", params=params, **limits
            ) as response:
                text = await response.text()
        except EngineUnavailable as error:
            if error.details != NOT_IN_TIME:
                raise
            await self.facts()  # if it is the engine that is silent, this says so
            raise RegistryUnavailable(
                f"{image} could not be pulled",
                details=f"nothing has come from its registry for {silence_s:g} s",
                resolution="check that the registry runs and can be reached from this host",
            ) from error
        raise_streamed(text, f"the image {image} could not be pulled")

    async def image_digest(self, image: str) -> str:
        """The image's id: ``sha256:`` of its configuration, the same on every machine."""
        found = await self._json("GET", f"images/{image}/json", what="image")
        return str(found["Id"])

    # -- containers ---------------------------------------------------------------------------

    async def create(self, spec: WorkerSpec, *, extra_environment: Mapping[str, str]) -> str:
        """Create (not start) the container of a worker; its id. ``NameTaken``, ``ImageNotFound``.

        ``extra_environment`` is what the manager adds (``WARMBOOT_URL``, …); the user's own wins.
        """
        environment = {**extra_environment, **spec.environment}
        config: dict[str, Any] = {
            "Image": spec.image,
            "Env": [f"{key}={value}" for key, value in environment.items()],
            "Labels": dict(spec.labels),
            "Tty": spec.tty,
            "HostConfig": {
                "NetworkMode": spec.network,
                "AutoRemove": spec.auto_remove,
                "Mounts": [
                    {
                        "Type": "bind",
                        "Source": mount.source,
                        "Target": mount.target,
                        "ReadOnly": mount.read_only,
                    }
                    for mount in spec.mounts
                ],
            },
        }
        if spec.command is not None:
            config["Cmd"] = list(spec.command)
        if spec.entrypoint is not None:
            config["Entrypoint"] = list(spec.entrypoint)
        answer = await self._json(
            "POST", "containers/create", what="image", params={"name": spec.name}, data=config
        )
        return str(answer["Id"])

    async def inspect(self, container: str) -> ContainerFacts:
        return ContainerFacts.of(await self._json("GET", f"containers/{container}/json"))

    async def description(self, container: str) -> dict[str, Any]:
        """The engine's whole description of a container."""
        found: dict[str, Any] = await self._json("GET", f"containers/{container}/json")
        return found

    async def labelled(self, label: str) -> list[str]:
        """The ids of all containers, running or not, that have ``label`` (``key=value``)."""
        filters = json.dumps({"label": [label]})
        found = await self._json("GET", "containers/json", params={"all": "1", "filters": filters})
        return [str(item["Id"]) for item in found]

    async def start(self, container: str) -> None:
        await self._do("POST", f"containers/{container}/start")

    async def stop(self, container: str, timeout_s: int = 10) -> None:
        """SIGTERM, then SIGKILL after ``timeout_s``. Idempotent."""
        await self._do(
            "POST",
            f"containers/{container}/stop",
            params={"t": str(timeout_s)},
            timeout_s=timeout_s + ANSWER_TIMEOUT_S,
        )

    async def kill(self, container: str) -> None:
        """SIGKILL; nothing when it is not running."""
        try:
            await self._do("POST", f"containers/{container}/kill")
        except Conflict:
            return

    async def remove(self, container: str) -> None:
        """Remove it with its checkpoints, running or not. Idempotent."""
        with contextlib.suppress(NotFound):
            await self._do("DELETE", f"containers/{container}", params={"force": "1", "v": "1"})

    async def wait_stopped(self, container: str, timeout_s: float | None) -> int:
        """The exit code when it does not run (any more); ``EngineUnavailable`` if it goes on.

        ``None`` waits as long as it takes.
        """
        answer = await self._json(
            "POST",
            f"containers/{container}/wait",
            params={"condition": "not-running"},
            timeout_s=timeout_s,
        )
        return int(answer["StatusCode"])

    async def output(
        self, container: str, *, follow: bool = False, tail: int | None = None
    ) -> AsyncGenerator[tuple[int, bytes], None]:
        """What it has written: the stream (1 stdout, 2 stderr), and bytes of it.

        Read from the engine only as fast as it is taken; it ends with whoever reads.
        """
        frames = None if (await self.inspect(container)).tty else Demultiplexer()
        params = {"stdout": "1", "stderr": "1", "tail": "all" if tail is None else str(tail)}
        async with self._answer(
            "GET",
            f"containers/{container}/logs",
            params={**params, "follow": "1" if follow else "0"},
            timeout_s=None,
            silence_s=None if follow else ANSWER_TIMEOUT_S,
        ) as response:
            async for chunk in response.content.iter_any():
                for piece in [(1, chunk)] if frames is None else frames.feed(chunk):
                    yield piece

    async def logs(
        self, container: str, *, follow: bool = False, tail: int | None = None
    ) -> AsyncIterator[str]:
        """Its output as lines of text, each with its end if it has one."""
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        rest = ""
        async with aclosing(self.output(container, follow=follow, tail=tail)) as pieces:
            async for _, data in pieces:
                *lines, rest = (rest + decoder.decode(data)).split("\n")
                for line in lines:
                    yield f"{line}\n"
        if rest:
            yield rest

    # -- checkpoints --------------------------------------------------------------------------

    async def checkpoints(self, container: str) -> list[str]:
        found = await self._json("GET", f"containers/{container}/checkpoints", what="checkpoint")
        return [str(item["Name"]) for item in found or []]

    async def dump(self, container: str, name: str, *, leave_running: bool) -> None:
        """The bare ``docker checkpoint create``. No timeout: gigabytes take their time."""
        await self._do(
            "POST",
            f"containers/{container}/checkpoints",
            what="checkpoint",
            data={"CheckpointID": name, "Exit": not leave_running},
            timeout_s=None,
        )

    async def start_from(self, container: str, name: str) -> None:
        """The bare ``docker start --checkpoint``."""
        await self._do(
            "POST",
            f"containers/{container}/start",
            what="checkpoint",
            params={"checkpoint": name},
            timeout_s=None,
        )

    async def delete_checkpoint(self, container: str, name: str) -> None:
        """Idempotent."""
        with contextlib.suppress(NotFound):
            await self._do("DELETE", f"containers/{container}/checkpoints/{name}")

    # -- how it is asked ----------------------------------------------------------------------

    async def _do(self, method: str, path: str, **options: Any) -> None:
        async with self._answer(method, path, **options) as response:
            await response.read()

    async def _json(self, method: str, path: str, **options: Any) -> Any:
        async with self._answer(method, path, **options) as response:
            return await response.json()

    @contextlib.asynccontextmanager
    async def _answer(
        self,
        method: str,
        path: str,
        *,
        what: str = "container",
        params: Mapping[str, str] | None = None,
        data: Any = None,
        timeout_s: float | None = ANSWER_TIMEOUT_S,
        silence_s: float | None = None,
    ) -> AsyncIterator[Any]:
        """``timeout_s`` is for all of it, ``silence_s`` for how long nothing of it comes."""
        body = json.dumps(data) if isinstance(data, dict) else data
        headers = {
            "Content-Type": "application/json" if isinstance(data, dict) else "application/x-tar"
        }
        try:
            with translated(what):
                async with (
                    self._client._query(
                        path,
                        method=method,
                        params=params,
                        data=body,
                        headers=headers,
                        timeout=aiohttp.ClientTimeout(total=timeout_s, sock_read=silence_s),
                    ) as response,
                    response,
                ):  # or an answer that is not read to its end stays open
                    yield response
        except EngineUnavailable:
            self._facts = None
            raise
