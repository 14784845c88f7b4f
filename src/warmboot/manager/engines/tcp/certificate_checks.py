"""For ``warmboot doctor``: until when the certificates of engines with a TCP port are valid."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from warmboot.host.engine_certificates import EngineCertificates
from warmboot.manager.protocols import Check
from warmboot.model.errors import HostError, NotFound
from warmboot.model.tenants.engine import Engine
from warmboot.store import Store

SOON = timedelta(days=30)
"""So long before their end the check fails."""


async def certificate_checks(store: Store, certificates: EngineCertificates) -> list[Check]:
    """One an engine that has a port."""
    engines: Sequence[Engine] = await store.engines.list()
    return [await _check(engine, certificates) for engine in engines if engine.spec.tcp]


async def _check(engine: Engine, certificates: EngineCertificates) -> Check:
    whose, why = f"the certificates of the engine {engine.name}", ""
    try:
        left = (end := (await certificates.read(str(engine.id))).expires_at) - datetime.now(UTC)
    except (NotFound, HostError) as error:
        good, said, why = False, f"{whose} cannot be read", error.details
    else:
        good = left > SOON
        said = (
            f"{whose} {'are valid until' if left > timedelta() else 'expired at'} {end:%F %R} UTC"
        )
    return Check(
        f"certificates {engine.name}",
        good,
        said,
        why=why or f"without valid ones no client reaches it at {engine.spec.tcp}",
        remedy="" if good else f"make new ones: `warmboot engine certs --renew {engine.name} DIR`",
        required=False,
    )
