"""The host's own Docker engine: what workers need of it beyond what any engine has.

Docker's checkpoint endpoints are experimental and not in aiodocker.
"""

from __future__ import annotations

import codecs
import contextlib
import json
import os
from collections.abc import AsyncIterator, Mapping
from contextlib import aclosing
from pathlib import Path
from typing import Any, Self

from warmboot.docker.client import DockerClient, config_of
from warmboot.docker.facts import EngineFacts
from warmboot.docker.place import ANSWER_TIMEOUT_S, at_socket
from warmboot.model.errors import CheckpointError, NotFound
from warmboot.model.worker import WorkerSpec

DEFAULT_SOCKET = Path("/var/run/docker.sock")


class DockerEngine(DockerClient):
    """One engine. An async context manager; every method may raise ``EngineUnavailable``."""

    def __init__(
        self, socket: Path = DEFAULT_SOCKET, *, answer_timeout_s: float = ANSWER_TIMEOUT_S
    ) -> None:
        super().__init__(at_socket(socket, answer_timeout_s), on_lost=self._forget)
        self.socket = socket
        self._facts: EngineFacts | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def facts(self) -> EngineFacts:
        self._facts = await super().facts()
        return self._facts

    async def remembered_facts(self) -> EngineFacts:
        """The facts of the engine, asked once: they do not change while it runs.

        A lost connection forgets them, for what answers next may be another version.
        """
        return self._facts or await self.facts()

    def _forget(self) -> None:
        self._facts = None

    async def create_worker(
        self, spec: WorkerSpec, *, extra_environment: Mapping[str, str], runtime: str = ""
    ) -> str:
        """Create (not start) the container of a worker; its id. ``NameTaken``, ``ImageNotFound``.

        ``extra_environment`` is what the manager adds (``WARMBOOT_URL``, …); the user's own wins.
        ``runtime`` is the OCI runtime to use; the engine's usual one if empty.
        """
        host_config: dict[str, object] = {
            "NetworkMode": spec.network,
            "AutoRemove": spec.auto_remove,
            "Mounts": [
                {
                    "Type": "bind",
                    # CRIU cannot restore a mount whose source is a symbolic link.
                    "Source": os.path.realpath(mount.source),
                    "Target": mount.target,
                    "ReadOnly": mount.read_only,
                }
                for mount in spec.mounts
            ],
        }
        # `json-file` keeps text: what is not UTF-8 would not be as it was. Another one was chosen.
        if (await self.remembered_facts()).log_driver == "json-file":
            host_config["LogConfig"] = {"Type": "local"}
        if runtime:
            host_config["Runtime"] = runtime
        return await self.create(spec.name, config_of(spec, extra_environment, host_config))

    async def labelled(self, label: str) -> list[str]:
        """The ids of all containers, running or not, that have ``label`` (``key=value``)."""
        params = {"all": "1", "filters": json.dumps({"label": [label]})}
        found = await self._ask.json("listing containers", "GET containers/json", params=params)
        return [str(item["Id"]) for item in found]

    async def on_runtime(self, runtime: str) -> list[str]:
        """The names of all containers, running or not, that were created with ``runtime``."""
        params = {"all": "1"}
        found = await self._ask.json("listing containers", "GET containers/json", params=params)
        names = []
        for item in found:
            with contextlib.suppress(NotFound):  # removed meanwhile
                container = await self.inspect(str(item["Id"]))
                if container.runtime == runtime:
                    names.append(container.name)
        return names

    async def logs(
        self, container: str, *, follow: bool = False, tail: int | None = None
    ) -> AsyncIterator[str]:
        """Its output as lines of text, each with its end if it has one."""
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        rest = ""
        async with aclosing(self.output(container, follow=follow, tail=tail)) as chunks:
            async for chunk in chunks:
                *lines, rest = (rest + decoder.decode(chunk.data)).split("\n")
                for line in lines:
                    yield f"{line}\n"
        if rest:
            yield rest

    async def network_driver(self, network: str) -> str:
        """Of what kind a network is (``bridge``). ``NotFound``."""
        doing = f"looking for the network {network}"
        found = await self._ask.json(doing, f"GET networks/{network}")
        return str(found["Driver"])

    async def set_restart_policy(self, container: str, policy: Mapping[str, Any]) -> None:
        """The bare ``docker update --restart``; ``policy`` as in ``ContainerFacts``."""
        doing, data = "setting the container's restart policy", {"RestartPolicy": dict(policy)}
        await self._ask.do(doing, f"POST containers/{container}/update", data=data)

    # -- checkpoints --------------------------------------------------------------------------

    async def checkpoints(self, container: str) -> list[str]:
        request = f"GET containers/{container}/checkpoints"
        found = await self._ask.json("listing checkpoints", request, kind=CheckpointError)
        return [str(item["Name"]) for item in found or []]

    async def dump(self, container: str, name: str, *, leave_running: bool) -> None:
        """The bare ``docker checkpoint create``. No timeout: gigabytes take their time."""
        request = f"POST containers/{container}/checkpoints"
        data = {"CheckpointID": name, "Exit": not leave_running}
        await self._ask.do("the checkpoint", request, data=data, lasts=True, kind=CheckpointError)

    async def start_from(self, container: str, name: str) -> None:
        """The bare ``docker start --checkpoint``."""
        request, params = f"POST containers/{container}/start", {"checkpoint": name}
        await self._ask.do("the restore", request, params=params, lasts=True, kind=CheckpointError)

    async def start_restored(self, container: str) -> None:
        """A plain start that the container's runtime is known to make a restore."""
        request = f"POST containers/{container}/start"
        await self._ask.do("the restore", request, lasts=True, kind=CheckpointError)

    async def delete_checkpoint(self, container: str, name: str) -> None:
        """Idempotent."""
        request = f"DELETE containers/{container}/checkpoints/{name}"
        with contextlib.suppress(NotFound):
            await self._ask.do("deleting a checkpoint", request)
