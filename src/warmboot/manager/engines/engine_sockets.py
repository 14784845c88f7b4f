"""The engines' sockets: the front is told what each engine is, whenever that changes."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

import structlog

from warmboot.host.agent import HostAgent
from warmboot.manager.engines.engine_states import silence
from warmboot.manager.tenants.park_tenant import AROUND_PARKED
from warmboot.model.conventions.engine_front import ServedEngine, TlsEndpoint
from warmboot.model.conventions.registry_logins import RegistryLogin
from warmboot.model.errors import HostError, VmGone
from warmboot.model.tenants.engine import Engine

log = structlog.get_logger(__name__)


class EngineSockets:
    def __init__(self, host: HostAgent) -> None:
        self._host = host

    async def show(self, engine: Engine, *, answers: bool = True) -> None:
        """Have its socket, with its Docker behind it or with why there is none. ``HostError``.

        Where its Docker does not ``answers`` yet, it is connected to, and clients wait.
        """
        await self._host.front.serve(self._as_served(engine, answers))

    async def show_if_possible(self, engine: Engine, *, answers: bool = True) -> None:
        """The same where the state was stored already; what is not possible is logged."""
        try:
            await self.show(engine, answers=answers)
        except HostError as error:
            log.error(
                f"the socket of engine {engine.id} is not as it should be", error=error.details
            )

    async def greeted(self, engine: Engine) -> None:
        """Return when those are answered who waited for a sign of its Docker; soon anyway."""
        with contextlib.suppress(HostError):  # nobody is kept waiting by a front that is not there
            await self._host.front.greeted(str(engine.id))

    async def remove(self, engine: Engine) -> None:
        try:
            await self._host.front.forget(str(engine.id))
        except HostError as error:
            log.error(f"the socket of engine {engine.id} was not removed", error=error.details)

    async def log_in(self, engine: Engine, logins: Sequence[RegistryLogin]) -> None:
        await self._host.front.log_in(str(engine.id), logins)

    def _tls(self, engine: Engine) -> TlsEndpoint | None:
        if (tcp := engine.spec.tcp) is None:
            return None
        certificates, engine_id = self._host.certificates, str(engine.id)
        folder, version = certificates.folder(engine_id), certificates.version(engine_id)
        return TlsEndpoint(tcp.address, tcp.port, str(folder), version)

    def _as_served(self, engine: Engine, answers: bool) -> ServedEngine:
        guest = None
        # One that is paused keeps its connections; new requests are told the reason.
        if (vm_id := engine.live_vm_id) is not None:
            with contextlib.suppress(VmGone):  # its end is about to be told
                guest = self._host.vms.endpoint(vm_id)
        return ServedEngine(
            id=str(engine.id),
            name=engine.name,
            socket=engine.socket,
            uid=engine.spec.owner_uid,
            gid=self._host.front.gid,
            guest=guest,
            answers=answers,
            handed_over=engine.handed_over,
            reason=silence(engine),
            tls=self._tls(engine),
            wakes=engine.state in AROUND_PARKED,
            folders=engine.spec.folders,
            labels=labels_of(engine),
        )


def labels_of(engine: Engine) -> tuple[str, ...]:
    """What ``docker info`` tells: which engine it is."""
    own = {"warmboot.engine": engine.name, "warmboot.engine-id": str(engine.id)}
    return tuple(f"{name}={value}" for name, value in {**engine.spec.labels, **own}.items())
