"""What an engine that goes on from a snapshot takes over from it, and whether it can."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from warmboot.host.agent import HostAgent
from warmboot.model.container import PortMapping
from warmboot.model.errors import Conflict, InvalidRequest
from warmboot.model.runtime_snapshot import FOLDERS, PORTS, Depth, RuntimeSnapshot, SnapshotState
from warmboot.model.snapshot_fit import fit_of
from warmboot.model.tenants.boot import BootPolicy
from warmboot.model.tenants.engine import Engine, EnginePort, EngineSpec
from warmboot.store import Store


async def moment_for(store: Store, host: HostAgent, spec: EngineSpec) -> RuntimeSnapshot:
    """The snapshot that is asked for; why it cannot be had, if so."""
    moment = await store.snapshots.find(spec.snapshot)
    name = moment.name or str(moment.id)
    if moment.depth is not Depth.ENGINE:
        raise InvalidRequest(
            f"the snapshot {name} is of no engine",
            details="a version of a runtime image is chosen by itself",
            resolution="see which are of engines: `warmboot snapshot ls`",
        )
    if spec.shape not in (None, moment.shape):
        raise InvalidRequest(
            f"an engine that goes on from {name} has its shape: {moment.shape}",
            resolution="leave the CPUs and the memory out",
        )
    if spec.runtime_image_id not in (None, moment.runtime_image_id):
        raise InvalidRequest(
            f"the snapshot {name} is of another runtime image",
            resolution="leave the runtime image out",
        )
    fit = fit_of(moment, (await host.probe()).host)
    if fit.usable or (spec.boot is BootPolicy.COLD and moment.state is SnapshotState.READY):
        return moment
    raise Conflict(
        f"the snapshot {name} cannot be used on this host",
        details=fit.why,
        resolution=f"its disk can, without what ran: `warmboot engine create --cold --from {name}`",
    )


def noted_of(engine: Engine) -> dict[str, Any]:
    """What a snapshot of the engine tells of its ports and its folders."""
    return {
        FOLDERS: [folder.path for folder in engine.spec.folders],
        PORTS: [
            {"container": one.container, "held": one.held, **asdict(one.mapping)}
            for one in engine.ports
        ],
    }


def ports_at(moment: RuntimeSnapshot, address: str) -> tuple[EnginePort, ...]:
    """What its containers have published answers at the engine's own address, and nowhere else:
    the host's ports are the source's."""
    if not address:
        return ()
    found: dict[EnginePort, None] = {}
    for one in moment.metadata.get(PORTS) or ():
        number, protocol = int(one["container_port"]), str(one["protocol"])
        mapping = PortMapping(number, number, address, protocol)
        found[EnginePort(str(one["container"]), mapping, bool(one["held"]))] = None
    return tuple(found)
