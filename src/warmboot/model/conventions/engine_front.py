"""What the manager tells the front of the engines' sockets, over the front's control socket.

hello        → {version, code}          who it is: a release, and a digest of ``CODE``
serve        ServedEngine → {}          there is this socket, and this is behind it
greeted      {id} → {}                  who asked for no more than a greeting there has got it
unused       → {engines}                for how many seconds nothing was asked of each, by id; 0
                                        while a request is under way, or a stream goes on
log-in       {id, logins} → {}          pull, push and build there with these
logins       {id} → {id, logins}        those
forget       {id} → {}                  there is no such engine any more
serve-user   DefaultSocket → {}         there is this socket, and its user's engine behind it
forget-user  {uid} → {}                 that user has no default socket any more
list         → {ids, uids, logged_in}   ids of those with sockets, and of those with logins
retire       → {}                       take no new connections; end with the last one

The front asks the manager for ports (see ``engine_socket.port_keeper``), and

wake-engine  {uid, gone} → {engine}     the id of that user's engine, which runs; ``gone``: its VM
                                        is not there, whatever is stored; or {refused}, in words
             {engine} → {engine}        the same of one that ``wakes``
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from warmboot.model.conventions.registry_logins import RegistryLogin
from warmboot.model.tenants.host_folder import HostFolder
from warmboot.model.vm import GuestAddress

CONTROL_SOCKET = "front.sock"
"""In the manager's run folder."""

CODE = (
    "warmboot.engine_socket",
    "warmboot.host.guest",
    "warmboot.model",
    "warmboot.system",
    "h11",
)
"""The packages that the front runs: with others in their place it is another front."""

WAKE_TIMEOUT_S = 600.0
"""How long the manager has an engine woken, at most."""

USERS_FOLDER = "users"
"""There, too: users' default sockets, which their uids name."""

PROCESS_FILE = "front.pid"
"""Beside the control socket: the front's pid and its start time in clock ticks, as in proc(5)."""


@dataclass(frozen=True, slots=True)
class GuestEndpoint:
    """The way to Docker in a guest: an address, a token, and the process whose end is the guest's.

    ``pid`` is the VMM's, which counts only together with its start time.
    """

    address: GuestAddress
    token: str = field(repr=False)
    pid: int
    start_time_ticks: int


@dataclass(frozen=True, slots=True)
class TlsEndpoint:
    """A TCP port for an engine, and the folder that has its certificates.

    ``version`` is another one when there are others in the folder.
    """

    address: str
    port: int
    certificates: str
    version: str = ""


@dataclass(frozen=True, slots=True)
class ServedEngine:
    """An engine's socket. Without ``guest`` nobody answers there: because of ``reason``, or,
    if that is empty, not yet: then who asks is kept waiting. So is who asks for what is in its
    Docker before that is ``handed_over``: there are still things of ours in it. A guest that does
    not ``answers`` yet is connected to ahead of that; if it ends before, another one will come.
    One that ``wakes`` is parked, or about to be: for who asks there, the manager has it woken.
    ``docker info`` tells its ``labels``, each ``NAME=VALUE``."""

    id: str
    name: str
    socket: str
    uid: int
    gid: int
    guest: GuestEndpoint | None = None
    answers: bool = True
    handed_over: bool = True
    reason: str = ""
    tls: TlsEndpoint | None = None
    wakes: bool = False
    folders: tuple[HostFolder, ...] = ()
    labels: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class DefaultSocket:
    """The socket at which a user's engine is reached that is made when it is asked for."""

    uid: int
    gid: int
    socket: str


def as_message(engine: ServedEngine) -> dict[str, Any]:
    message = asdict(engine)
    if engine.guest is not None:
        address = message["guest"]["address"]
        for name in ("namespace", "vsock_socket"):
            address[name] = None if address[name] is None else str(address[name])
    return message


def from_message(message: Mapping[str, Any]) -> ServedEngine:
    guest = message["guest"]
    if guest is not None:
        address = dict(guest["address"])
        for name in ("namespace", "vsock_socket"):
            address[name] = None if address[name] is None else Path(address[name])
        guest = GuestEndpoint(**{**guest, "address": GuestAddress(**address)})
    tls = None if message["tls"] is None else TlsEndpoint(**message["tls"])
    folders = tuple(HostFolder(**one) for one in message["folders"])
    own = {"guest": guest, "tls": tls, "folders": folders, "labels": tuple(message["labels"])}
    return ServedEngine(**{**message, **own})


def logins_message(engine_id: str, logins: Sequence[RegistryLogin]) -> dict[str, Any]:
    return {"id": engine_id, "logins": [asdict(login) for login in logins]}


def logins_from(message: Mapping[str, Any]) -> Sequence[RegistryLogin]:
    return tuple(RegistryLogin(**login) for login in message["logins"])
