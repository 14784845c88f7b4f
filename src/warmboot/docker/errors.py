"""Translates errors of a Docker engine, and of aiodocker, into warmboot's errors.

The same cause is the same error on every engine; its ``Place`` adds which one it is, where that
matters to what the user can do.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator

import aiohttp
from aiodocker.exceptions import DockerError

from warmboot.docker.place import Place
from warmboot.model.errors import (
    CommandNotExecutable,
    CommandNotFound,
    Conflict,
    ContainerError,
    DiskFull,
    ImageNotFound,
    NameTaken,
    NotFound,
    RegistryUnavailable,
    WarmbootError,
)

NO_CONNECTION = 900
"""What the library says instead of a status when it could not connect, or was cut off."""

Fault = Callable[[str], WarmbootError | None]
"""Which error a message of Docker's about one kind of request is; ``None``: as for any other."""


def any_fault(_: str) -> WarmbootError | None:
    """Nothing is known of this kind of request."""
    return None


@contextlib.contextmanager
def translated(
    place: Place,
    doing: str,
    fault: Fault = any_fault,
    kind: type[WarmbootError] = ContainerError,
) -> Iterator[None]:
    """Raise what Docker and the way to it raise as errors of ours.

    ``doing`` says what is asked for; ``kind`` is what Docker's other refusals are.
    """
    try:
        yield
    except DockerError as error:
        if error.status == NO_CONNECTION:
            raise lost(place, doing, error) from error
        raise refusal(place, doing, error.status, str(error.message), fault, kind) from error
    except (aiohttp.ClientError, OSError) as error:
        raise lost(place, doing, error) from error


def lost(place: Place, doing: str, error: Exception) -> WarmbootError:
    """The error of an engine that does not answer, or no longer does."""
    return place.unavailable(
        f"{place.name} does not answer",
        details=f"{doing}: {plain_reason(error)}",
        resolution=place.remedy,
    )


def refusal(
    place: Place,
    doing: str,
    status: int,
    message: str,
    fault: Fault = any_fault,
    kind: type[WarmbootError] = ContainerError,
) -> WarmbootError:
    """Which of our errors an answer of Docker's is."""
    text = message.lower()
    if "no space left" in text:
        return DiskFull(
            f"{place.disk} is full ({doing})", details=message, resolution=place.make_room
        )
    if (known := fault(message)) is not None:
        return known
    if "no such image" in text:
        return ImageNotFound(
            "there is no such image", details=message, resolution="pull or load it first"
        )
    if "does not exist for container" in text:  # a checkpoint, told as an internal error
        return NotFound("there is no such checkpoint", details=message)
    if status == 404:
        return NotFound(f"Docker does not know it ({doing})", details=message)
    if status == 409 and "already in use" in text:
        return NameTaken(
            "a container of that name already exists", details=message, resolution="choose another"
        )
    if status == 409:
        return Conflict(f"Docker cannot do that now ({doing})", details=message)
    return kind(f"Docker refused {doing}", details=message)


def pull_error(reference: str, message: str) -> WarmbootError:
    """Which of our errors Docker's message about a pull is."""
    text = message.lower()
    if "no matching manifest" in text or "no match for platform" in text:
        return ImageNotFound(
            f"there is no image {reference} for this machine's processor",
            details=message,
            resolution="use an image that is built for it",
        )
    if any(phrase in text for phrase in _NOT_TO_BE_HAD):
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
    return registry_unavailable(reference, message)


_NOT_TO_BE_HAD = (
    *("manifest unknown", "name unknown", "not found", "repository does not exist"),
    *("pull access denied", "requested access", "unauthorized", "authentication required"),
    "no basic auth credentials",
)
"""A registry that wants to know who asks does not tell whether it has the image."""


def registry_unavailable(reference: str, details: str) -> RegistryUnavailable:
    return RegistryUnavailable(
        f"{reference} could not be pulled",
        details=details,
        resolution="check that the registry runs and can be reached from this host, or do without "
        "it: `warmboot run --archive FILE`, and `docker load` for a worker",
    )


def load_error(message: str) -> WarmbootError:
    return ContainerError(
        "the archive could not be loaded",
        details=message,
        resolution="give the output of `docker save` or an OCI image layout as a tar file",
    )


def exec_error(message: str) -> WarmbootError:
    if (known := command_error(message)) is not None:
        return known
    refused = message.startswith(_EXEC_REFUSED)
    kind = CommandNotExecutable if refused else ContainerError
    why = message.removeprefix(_EXEC_REFUSED).removesuffix(": unknown")
    return kind("the command could not be run", details=why)


_EXEC_REFUSED = "OCI runtime exec failed: "
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
    if (program := _program(_NOT_FOUND, message)) == "":
        return CommandNotFound(
            "the command is empty: it names no program",
            details=message,
            resolution="name one, or leave the command out to run the image's own",
        )
    if program is not None:
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


def plain_reason(error: BaseException) -> str:
    """Why no answer came, as a sentence; the libraries name addresses that nobody knows."""
    cause: BaseException = error
    if isinstance(error, DockerError):  # the client wraps what it ran into without naming it
        cause = error.__cause__ or error.__context__ or error
    if isinstance(cause, aiohttp.ClientConnectorError):
        cause = cause.os_error
    if isinstance(cause, TimeoutError):
        return "no answer came in time"
    if isinstance(cause, aiohttp.ServerDisconnectedError):
        return "the connection was closed before the answer came"
    if isinstance(cause, OSError) and cause.strerror:
        return f"there is no connection ({cause.strerror.lower()})"
    return str(cause) or f"the connection broke off ({type(cause).__name__})"
