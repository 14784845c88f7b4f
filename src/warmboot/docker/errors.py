"""Translates errors of a Docker engine, and of aiodocker, into warmboot's errors."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterator

import aiohttp
from aiodocker.exceptions import DockerError

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

NOT_IN_TIME = "it did not answer in time"
NO_CONNECTION = 900  # what aiodocker calls a connection that was refused or lost


_NO_SOCKET = re.compile(
    r"Cannot connect to Docker Engine .*Cannot connect to unix socket (\S+) ssl:\S+ \[([^]]*)\]\]"
)


@contextlib.contextmanager
def translated(what: str) -> Iterator[None]:
    """Turn what aiodocker and aiohttp raise into our own errors."""
    try:
        yield
    except DockerError as error:
        raise _translate(error, what) from error
    except TimeoutError as error:  # aiohttp's own among them
        raise unavailable(NOT_IN_TIME) from error
    except (aiohttp.ClientError, ConnectionError) as error:
        raise unavailable(str(error) or type(error).__name__) from error


def unavailable(details: str) -> EngineUnavailable:
    return EngineUnavailable(
        "the Docker engine does not answer",
        details=details,
        resolution="check whether it is running (`systemctl status docker`, `warmboot doctor`), "
        "then try again",
    )


def _translate(error: DockerError, what: str) -> WarmbootError:
    message = str(error.message)
    if error.status == NO_CONNECTION:
        return unavailable(_NO_SOCKET.sub(r"\2: \1", message))
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
                "a container of that name already exists",
                details=message,
                resolution="choose another",
            )
        return Conflict("the engine cannot do that now", details=message)
    kind = CheckpointError if what == "checkpoint" else ContainerError
    return kind("the Docker engine refused", details=message)


def raise_streamed(text: str, brief: str) -> None:
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
