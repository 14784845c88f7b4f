"""Limits of HTTP connections: time limits of each phase, and their number."""

from __future__ import annotations

import resource
from dataclasses import dataclass
from typing import Self

MOST_DESCRIPTORS = 65_536
"""More than this is never needed, and programs that we start walk through all of them."""
DESCRIPTORS_A_CONNECTION = 4
"""Its own socket, one to a guest or an engine, and a share of what everything else takes."""
MOST_AT_ONCE = 64
_OUR_SHARE, _OUR_LEAST = 4, 32
_SOCKET_SHARE, _BURST_SHARE = 8, 64


@dataclass(frozen=True, slots=True)
class HttpLimits:
    """Seconds, and numbers of connections.

    A request's body has its own limits (``warmboot.api.middleware.body``); an answer without a
    length (output that is followed, events, a WebSocket) may last as long as its client stays.
    """

    connections: int = 1024
    """To TCP, and as many to the Unix socket."""
    surplus: int = 32
    """Connections over the limit, which are told so; health checks are answered on them, too."""
    head_s: float = 10.0
    """From the first byte (or the connection) to the end of a head."""
    idle_s: int = 5
    """Between two requests."""
    stalled_s: float = 30.0
    """In which a client must take something of an answer that has an end."""
    drain_s: float = 2.0
    """For which the rest of a body is read after it was refused, so that the answer arrives."""
    drain_bytes: int = 8 << 20
    descriptors_by_tcp: int = MOST_DESCRIPTORS
    descriptors_by_socket: int = MOST_DESCRIPTORS
    """No connection of that kind has this descriptor, or a higher one.

    The kernel gives out the lowest that is free: its number says how many are in use at least, by
    whatever else the process has open, too.
    """
    accepted_at_once: int = MOST_AT_ONCE
    """Of one kind, before any of them is looked at: some four times as many may be on their way."""

    @classmethod
    def within(cls, wanted: int, descriptors: int) -> Self:
        """``wanted`` connections, or fewer, so that the rest of the process has descriptors left.

        The last ones are the process's own, those before only for the Unix socket: who floods TCP
        does not keep root out, nor the manager from its work.
        """
        for_us = max(_OUR_LEAST, descriptors // _OUR_SHARE)
        return cls(
            connections_within(wanted, descriptors),
            descriptors_by_tcp=descriptors - for_us - descriptors // _SOCKET_SHARE,
            descriptors_by_socket=descriptors - for_us,
            accepted_at_once=max(1, min(MOST_AT_ONCE, descriptors // _BURST_SHARE)),
        )


def raise_descriptor_limit() -> int:
    """Raise this process's soft limit of open files as far as it goes; the limit now."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MOST_DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, MOST_DESCRIPTORS)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        return wanted
    return MOST_DESCRIPTORS if soft == resource.RLIM_INFINITY else soft


def connections_within(wanted: int, descriptors: int) -> int:
    """The number of connections that are accepted: ``wanted``, or as many as
    ``descriptors`` allow.
    """
    return max(1, min(wanted, descriptors // DESCRIPTORS_A_CONNECTION))
