"""The user's container inside its VM: images, life, output and sessions, on Docker in the guest.

Every function takes the VM's ``GuestLink``; Docker's errors become ours here.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

import aiohttp
from aiodocker.exceptions import DockerError

from warmboot.host.guest.guest_errors import lost, lost_or, translation
from warmboot.host.guest.guest_link import GuestLink
from warmboot.host.guest.pull_timeout import PullTimeout, refused
from warmboot.model.container import ContainerSpec
from warmboot.model.conventions.multiplexed import Demultiplexer
from warmboot.model.errors import (
    CommandNotExecutable,
    CommandNotFound,
    ContainerError,
    DiskFull,
    ImageNotFound,
    NotFound,
    WarmbootError,
)

DOCKER_NAME = "warmboot"
"""The name in the VM, where nobody sees it. The user's own may be too short for Docker."""

SANDBOX = {
    "NetworkMode": "container:warmboot-sandbox",
    "UTSMode": "host",
    "Annotations": {"io.containerd.runc.v2.group": "warmboot"},
}
"""The network that is there before the container, and the shim that runs (``guest/sandbox.py``)."""

ANSWER_TIMEOUT_S = 60.0
"""How long Docker may take to say how a container is."""

START_TIMEOUT_S = 300.0
"""How long a start may take; on a machine that emulates many VMs at once it does take long."""

STOP_MARGIN_S = 30.0
"""How long a stop may take beyond the time that the container is given."""

Progress = Callable[[Mapping[str, Any]], Awaitable[None]]
"""Called with Docker's progress messages of a pull."""


@dataclass(frozen=True, slots=True)
class DockerState:
    """What Docker in the guest says of the container. Times as Docker writes them (RFC 3339)."""

    docker_id: str
    running: bool
    status: str
    exit_code: int
    oom_killed: bool
    error: str


async def has_image(link: GuestLink, reference: str) -> bool:
    try:
        with translation(link, f"looking for {reference}"):
            await link.docker.images.inspect(reference)
    except NotFound:
        return False
    return True


async def pull_image(
    link: GuestLink,
    reference: str,
    progress: Progress,
    timeout: PullTimeout = PullTimeout(),  # noqa: B008 - it is frozen
) -> None:
    """Pull ``reference``; ``ImageNotFound``, ``RegistryUnavailable`` or ``DiskFull``."""
    async with timeout.waiting(reference) as heard:
        await _pull(link, reference, progress, heard)


async def _pull(
    link: GuestLink, reference: str, progress: Progress, heard: Callable[[Mapping[str, Any]], None]
) -> None:
    name = reference if has_tag(reference) else f"{reference}:latest"
    try:
        async for message in link.docker.images.pull(name, stream=True):
            if "error" in message:
                raise pull_error(reference, str(message["error"]))
            heard(message)
            await progress(message)
    except DockerError as error:
        refusal = pull_error(reference, error.message)
        raise lost_or(link, error, f"pulling {reference}", refusal) from error
    except (aiohttp.ClientError, OSError) as error:
        raise lost(link, error, f"pulling {reference}") from error


async def load_archive(link: GuestLink, chunks: AsyncIterator[bytes]) -> list[str]:
    """Load a ``docker save`` archive; the references (or ids) of its images."""
    loaded = []
    try:
        async for message in link.docker.images.import_image(chunks, stream=True):
            if "error" in message:
                raise _load_error(str(message["error"]))
            for prefix in ("Loaded image: ", "Loaded image ID: "):
                if (text := str(message.get("stream", ""))).startswith(prefix):
                    loaded.append(text.removeprefix(prefix).strip())
    except DockerError as error:
        refusal = _load_error(error.message)
        raise lost_or(link, error, "loading the archive", refusal) from error
    except (aiohttp.ClientError, OSError) as error:
        raise lost(link, error, "loading the archive") from error
    return loaded


async def name_loaded_image(link: GuestLink, loaded: list[str], reference: str) -> None:
    """See to it that ``reference`` names an image of the archive: the only one, if unnamed."""
    if await has_image(link, reference):
        return
    if len(loaded) != 1:
        raise ImageNotFound(
            f"the archive has no image {reference}",
            details=f"it has: {', '.join(loaded) or 'none'}",
            resolution="name one of these",
        )
    repository, tag = split_reference(reference)
    with translation(link, f"naming the image {reference}"):
        await link.docker.images.tag(loaded[0], repository, tag=tag)


async def ensure_created(link: GuestLink, spec: ContainerSpec) -> tuple[str, bool]:
    """Docker's id of the container, created if it is not there, and whether it never ran yet."""
    containers = link.docker.containers
    await link.ensure_sandbox()  # also for one that is there: its VM may have been booted again
    with contextlib.suppress(NotFound):
        known = await inspect(link, DOCKER_NAME)
        return known.docker_id, known.status == "created"
    with translation(link, f"creating {spec.name}"):
        created = await containers.create(_docker_config(spec), name=DOCKER_NAME)
    return str(created.id), True


async def inspect(link: GuestLink, ref: str) -> DockerState:
    with translation(link, "asking for the container's state"):
        async with asyncio.timeout(ANSWER_TIMEOUT_S):
            details = await link.docker.containers.container(ref).show()
    state = details["State"]
    return DockerState(
        docker_id=details["Id"],
        running=state["Running"],
        status=state["Status"],
        exit_code=state["ExitCode"],
        oom_killed=state.get("OOMKilled", False),
        error=state.get("Error", ""),
    )


async def start(link: GuestLink, docker_id: str) -> None:
    """``CommandNotFound`` and ``CommandNotExecutable`` if it is the command's fault."""
    with translation(link, "starting the container"):
        try:
            async with asyncio.timeout(START_TIMEOUT_S):
                await link.docker.containers.container(docker_id).start()
        except DockerError as error:
            if (fault := command_error(error.message)) is not None:
                raise fault from error
            raise


async def stop(
    link: GuestLink, docker_id: str, timeout_s: float, signal: str | None = None
) -> None:
    """``signal`` (the container's own, if ``None``), and SIGKILL after ``timeout_s``.

    ``GuestUnreachable`` if even that does nothing.
    """
    with translation(link, "stopping the container"):
        async with asyncio.timeout(timeout_s + STOP_MARGIN_S):
            container = link.docker.containers.container(docker_id)
            await container.stop(t=int(timeout_s), signal=signal)


async def kill(link: GuestLink, docker_id: str, signal: str) -> None:
    with translation(link, f"sending {signal} to the container"):
        async with asyncio.timeout(ANSWER_TIMEOUT_S):
            await link.docker.containers.container(docker_id).kill(signal=signal)


async def wait(link: GuestLink, docker_id: str) -> int:
    """The exit code, once the container is not running."""
    with translation(link, "waiting for the container"):
        result = await link.streams.containers.container(docker_id).wait(timeout=None)
    return int(result["StatusCode"])


async def resize(link: GuestLink, docker_id: str, rows: int, columns: int) -> None:
    with translation(link, "resizing the container's terminal"):
        await link.docker.containers.container(docker_id).resize(h=rows, w=columns)


async def logs(
    link: GuestLink, docker_id: str, *, tty: bool, options: Mapping[str, Any]
) -> AsyncGenerator[tuple[int, bytes], None]:
    """Chunks of output, each with its stream (1 stdout, 2 stderr). ``TooManySessions``."""
    query = {"stdout": "1", "stderr": "1", **{k: str(v) for k, v in options.items()}}
    room = link.sessions if options.get("follow") else link.readers
    with room.taken(), translation(link, "reading the logs"):
        silence_s = None if options.get("follow") else ANSWER_TIMEOUT_S
        async with link.get(f"containers/{docker_id}/logs", query, silence_s) as response:
            if response.status != 200:
                raise DockerError(response.status, await response.text())
            frames = None if tty else Demultiplexer()
            async for chunk in response.content.iter_any():
                for piece in [(1, chunk)] if frames is None else frames.feed(chunk):
                    yield piece


def registry_of(reference: str) -> tuple[str, int] | None:
    """The registry's host and port when it is the host's own loopback, else None.

    ``localhost:5000/app`` means the machine that the user sits at, not the VM.
    """
    head, slash, _ = reference.partition("/")
    name, colon, port = head.rpartition(":")
    if not slash or not colon or not port.isdigit():
        return None
    if name == "localhost" or name.startswith("127."):
        return name, int(port)
    return None


def has_tag(reference: str) -> bool:
    return "@" in reference or ":" in reference.rpartition("/")[2]


def split_reference(reference: str) -> tuple[str, str]:
    """Repository and tag (``latest`` if there is none)."""
    if not has_tag(reference):
        return reference, "latest"
    repository, _, tag = reference.rpartition(":")
    return repository, tag


def pull_error(reference: str, message: str) -> WarmbootError:
    """Which of our errors Docker's message about a pull is."""
    text = message.lower()
    if "no space left" in text:
        return DiskFull(
            f"the VM's disk is full: {reference} does not fit",
            details=message,
            resolution="use a smaller image",
        )
    missing = ("manifest unknown", "not found", "pull access denied", "repository does not exist")
    if any(phrase in text for phrase in missing):
        return ImageNotFound(
            f"there is no image {reference}",
            details=message,
            resolution="check its name and tag, and that it is public in the registry",
        )
    if "invalid reference format" in text:
        return ImageNotFound(
            f"{reference!r} is not a valid image reference",
            details=message,
            resolution="write [REGISTRY/]NAME[:TAG], in lower case",
        )
    return refused(reference, message)


_NOT_FOUND = (
    re.compile(r"executable file `(?P<program>.*?)` not found"),  # crun
    re.compile(
        r'exec: "(?P<program>(?:[^"\\]|\\.)*)": '
        r"(?:.*executable file not found|.*no such file or directory)"
    ),
)
_NOT_EXECUTABLE = (
    re.compile(
        r"the path `(?P<program>.*?)` (?:exists but it is not executable|is not a regular file)"
    ),  # crun
    re.compile(r'exec: "(?P<program>(?:[^"\\]|\\.)*)": (?:permission denied|is a directory)'),
)
"""What crun and runc say of a program that they could not execute."""


def command_error(message: str) -> WarmbootError | None:
    """Which of our errors Docker's message about a start is; ``None`` if it is none about it."""
    if program := _program(_NOT_FOUND, message):
        return CommandNotFound(
            f"the image has no program {program!r}",
            details=message,
            resolution="check the command, and the image's entrypoint, which comes before it",
        )
    if program := _program(_NOT_EXECUTABLE, message):
        return CommandNotExecutable(
            f"{program!r} cannot be executed",
            details=message,
            resolution="name a program that is executable for the container's user",
        )
    return None


def _program(patterns: tuple[re.Pattern[str], ...], message: str) -> str | None:
    found = (pattern.search(message) for pattern in patterns)
    return next((match["program"] for match in found if match), None)


def _load_error(message: str) -> WarmbootError:
    if "no space left" in message.lower():
        return DiskFull("the VM's disk is full: the archive does not fit", details=message)
    return ContainerError(
        "the archive could not be loaded",
        details=message,
        resolution="give the output of `docker save` or an OCI image layout as a tar file",
    )


def _docker_config(spec: ContainerSpec) -> dict[str, Any]:
    # Docker would set the sandbox's.
    environment = {"HOSTNAME": spec.host_name, **spec.environment}
    config: dict[str, Any] = {
        "Image": spec.image,
        "Env": [f"{name}={value}" for name, value in environment.items()],
        "Labels": dict(spec.labels),
        "Tty": spec.tty,
        "OpenStdin": spec.stdin_open,
        "StdinOnce": spec.stdin_open,
        "AttachStdin": spec.stdin_open,
        "AttachStdout": True,
        "AttachStderr": True,
        # The VM has all ports to itself: which of them are published is the host's to decide.
        "HostConfig": dict(SANDBOX),
    }
    if spec.command is not None:
        config["Cmd"] = list(spec.command)
    if spec.entrypoint is not None:
        config["Entrypoint"] = list(spec.entrypoint)
    if spec.stop_timeout_s is not None:
        config["StopTimeout"] = spec.stop_timeout_s
    asked = {"User": spec.user, "WorkingDir": spec.working_dir, "StopSignal": spec.stop_signal}
    return config | {key: value for key, value in asked.items() if value}
