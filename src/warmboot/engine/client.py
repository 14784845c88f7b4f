"""A Docker engine behind its Unix socket: what workers need of it, errors translated.

aiodocker does the talking. Docker's checkpoint endpoints are experimental and not in aiodocker, so
they are asked for by path.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator, Iterable, Mapping
from pathlib import Path
from typing import Any, Self

import aiohttp
from aiodocker import Docker
from aiodocker.exceptions import DockerError

from warmboot.engine.facts import ContainerFacts, EngineFacts
from warmboot.model.errors import (
    CheckpointError,
    Conflict,
    ContainerError,
    DiskFull,
    EngineUnavailable,
    ImageNotFound,
    NameTaken,
    NotFound,
    WarmbootError,
)
from warmboot.model.worker import WorkerSpec

DEFAULT_SOCKET = Path("/var/run/docker.sock")
NO_CONNECTION = 900  # what aiodocker calls a connection that was refused or lost
ANSWER_TIMEOUT_S = 30.0
IMAGE_TIMEOUT_S = 1800.0


class DockerEngine:
    """One engine. An async context manager; every method may raise ``EngineUnavailable``.

    ``container`` is a container's id or name everywhere.
    """

    def __init__(self, socket: Path = DEFAULT_SOCKET) -> None:
        self.socket = socket
        self._client: Any = None
        self._connector: aiohttp.UnixConnector | None = None
        self._facts: EngineFacts | None = None

    async def __aenter__(self) -> Self:
        # One long request a running worker waits for its end, so there is no limit.
        self._connector = aiohttp.UnixConnector(str(self.socket), limit=0)
        self._client = Docker(url="unix://localhost", connector=self._connector)
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
        _raise_streamed(text, "the engine did not load the image")

    async def pull(self, image: str) -> None:
        """Pull ``image``; ``ImageNotFound`` when the registry does not have it."""
        params = (
            {"fromImage": image}
            if ":" in image.rpartition("/")[2] or "@" in image
            else {
                "fromImage": image,
                "tag": "latest",
            }
        )
        async with self._answer(
            "POST", "images/create", what="image", params=params, timeout_s=IMAGE_TIMEOUT_S
        ) as response:
            text = await response.text()
        _raise_streamed(text, f"the image {image} could not be pulled")

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

    async def logs(
        self, container: str, *, follow: bool = False, tail: int | None = None
    ) -> AsyncIterator[str]:
        """Standard output and error, in pieces as they were written."""
        params = {"stdout": True, "stderr": True, "tail": "all" if tail is None else str(tail)}
        handle = self._client.containers.container(container)
        with _translated("container"):
            if follow:
                async for piece in handle.log(follow=True, **params):
                    yield piece
            else:
                for piece in await handle.log(follow=False, **params):
                    yield piece

    async def put_archive(self, container: str, tar: Iterable[bytes] | Any) -> None:
        """Unpack a tar into the container's root; the engine does so inside a chroot."""
        await self._do(
            "PUT",
            f"containers/{container}/archive",
            params={"path": "/"},
            data=tar,
            timeout_s=IMAGE_TIMEOUT_S,
        )

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
    ) -> AsyncIterator[Any]:
        body = json.dumps(data) if isinstance(data, dict) else data
        headers = {
            "Content-Type": "application/json" if isinstance(data, dict) else "application/x-tar"
        }
        try:
            with _translated(what):
                async with self._client._query(
                    path,
                    method=method,
                    params=params,
                    data=body,
                    headers=headers,
                    timeout=aiohttp.ClientTimeout(total=timeout_s),
                ) as response:
                    yield response
        except EngineUnavailable:
            self._facts = None
            raise


@contextlib.contextmanager
def _translated(what: str) -> Any:
    """Turn what aiodocker and aiohttp raise into our own errors."""
    try:
        yield
    except DockerError as error:
        raise _translate(error, what) from error
    except (aiohttp.ClientError, ConnectionError) as error:
        raise _unavailable(str(error) or type(error).__name__) from error
    except TimeoutError as error:
        raise _unavailable("it did not answer in time") from error


def _unavailable(details: str) -> EngineUnavailable:
    return EngineUnavailable(
        "the Docker engine does not answer",
        details=details,
        resolution="see whether it runs (`systemctl status docker`, `warmboot doctor`), then try "
        "again",
    )


def _translate(error: DockerError, what: str) -> WarmbootError:
    message = str(error.message)
    if error.status == NO_CONNECTION:
        return _unavailable(message)
    if "no space left on device" in message:
        return DiskFull(
            "the engine's disk is full",
            details=message,
            resolution="delete checkpoints, containers or images that are not needed",
        )
    if error.status == 404:
        if what == "image" or "No such image" in message:
            return ImageNotFound(
                "there is no such image", details=message, resolution="pull or load it first"
            )
        return NotFound(f"no such {what}", details=message)
    if "does not exist for container" in message:  # a checkpoint, told as an internal error
        return NotFound("there is no such checkpoint", details=message)
    if error.status == 409:
        if "already in use" in message:
            return NameTaken(
                "there is a container of that name", details=message, resolution="choose another"
            )
        return Conflict("the engine cannot do that now", details=message)
    kind = CheckpointError if what == "checkpoint" else ContainerError
    return kind("the Docker engine refused", details=message)


def _raise_streamed(text: str, brief: str) -> None:
    """Loading and pulling answer 200 and tell of an error in the stream."""
    for line in text.splitlines():
        try:
            message = json.loads(line).get("error")
        except (ValueError, AttributeError):
            continue
        if message:
            gone = ("not found", "denied", "unknown")
            kind = ImageNotFound if any(word in message for word in gone) else ContainerError
            raise kind(brief, details=str(message), resolution="check the image's name")
