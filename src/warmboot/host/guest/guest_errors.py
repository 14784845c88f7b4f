"""Translates errors of Docker in a guest into warmboot's errors."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import aiohttp
from aiodocker.exceptions import DockerError

from warmboot.host.guest.guest_link import GuestLink
from warmboot.model.errors import (
    ContainerError,
    DiskFull,
    GuestUnreachable,
    NotFound,
    WarmbootError,
)

_NO_CONNECTION = 900
"""What the Docker client says instead of a status when it could not connect."""


@contextlib.contextmanager
def translation(link: GuestLink, doing: str) -> Iterator[None]:
    """Raise what Docker and the way to it raise as errors of ours."""
    try:
        yield
    except DockerError as error:
        raise translated(link, error, doing) from error
    except (aiohttp.ClientError, OSError) as error:
        raise lost(link, error, doing) from error


def translated(link: GuestLink, error: DockerError, doing: str) -> WarmbootError:
    if error.status == _NO_CONNECTION:
        return lost(link, error, doing)
    if error.status == 404:
        return NotFound(f"Docker in the VM does not know it ({doing})", details=error.message)
    if "no space left" in error.message.lower():
        return DiskFull(f"the VM's disk is full ({doing})", details=error.message)
    return ContainerError(f"Docker in the VM refused {doing}", details=error.message)


def lost_or(
    link: GuestLink, error: DockerError, doing: str, refusal: WarmbootError
) -> WarmbootError:
    """``refusal``, unless Docker has not even been reached."""
    return lost(link, error, doing) if error.status == _NO_CONNECTION else refusal


def lost(link: GuestLink, error: Exception, doing: str) -> GuestUnreachable:
    return GuestUnreachable(
        f"Docker in the VM {link.vm_id} does not answer",
        details=f"{doing}: {plain_reason(error)}",
        resolution="try again in a moment; if this continues, `warmboot logs --boot` may say why; "
        "`warmboot rm -f` removes the container whatever its guest does",
    )


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
