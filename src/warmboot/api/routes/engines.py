"""``/v1/engines``."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query
from fastapi.responses import PlainTextResponse

from warmboot.api.routing import (
    Labels,
    Paging,
    Part,
    Ref,
    StopTimeout,
    WaitTimeout,
    Wired,
    as_asked,
    named,
    paged,
)
from warmboot.api.schemas.engine_schemas import (
    CertificatesOut,
    EngineDiskOut,
    EngineIn,
    EngineOut,
    EngineSnapshotIn,
    RegistryLoginsIn,
)
from warmboot.api.schemas.requests import ForkIn
from warmboot.api.schemas.responses import Created, Item, Items, Ok, Paged
from warmboot.api.streams import NOT_GUESSED
from warmboot.manager.protocols import Engines, EngineUntil, Services
from warmboot.model.errors import NotSupported
from warmboot.model.tenants.engine import EngineState

router = APIRouter(prefix="/v1/engines", tags=["engines"])


def _engines(services: Services) -> Engines:
    if services.engines is None:
        raise NotSupported("there are no engines here")
    return services.engines


@router.post("", status_code=201, summary="Create and start a Docker engine in a VM of its own")
async def create_engine(body: EngineIn, services: Wired) -> Created:
    return Created(id=await _engines(services).create(body.to_model()))


@router.get("", summary="List engines")
async def list_engines(
    services: Wired,
    wanted: Paging,
    state: Annotated[
        tuple[EngineState, ...],
        Query(max_length=16, description="only those in one of these states"),
    ] = (),
    name: Part = "",
    label: Labels = (),
) -> Paged[EngineOut]:
    """Newest first."""
    page = await services.pages.engines(named(wanted, name), state or None, as_asked(name, label))
    return paged(page, EngineOut.of)


@router.get("/{ref}", summary="Show an engine")
async def get_engine(ref: Ref, services: Wired) -> Item[EngineOut]:
    return Item(item=EngineOut.of(await _engines(services).get(ref)))


@router.delete("/{ref}", summary="Remove an engine, its VM and all that is in it")
async def delete_engine(
    ref: Ref,
    services: Wired,
    force: Annotated[bool, Query(description="also when it runs")] = False,
) -> Ok:
    await _engines(services).delete(ref, force=force)
    return Ok()


@router.get("/{ref}/disk", summary="Show what is used of an engine's disk")
async def get_engine_disk(ref: Ref, services: Wired) -> Item[EngineDiskOut]:
    return Item(item=EngineDiskOut.of(await _engines(services).disk(ref)))


@router.put("/{ref}/registry-logins", summary="Log an engine in at registries")
async def set_engine_registry_logins(ref: Ref, body: RegistryLoginsIn, services: Wired) -> Ok:
    """The engine's pulls, pushes and builds that have no login get these, which replace earlier
    ones. They are kept in memory alone, until the engine is removed."""
    await _engines(services).log_in(ref, [login.to_model() for login in body.logins])
    return Ok()


@router.get("/{ref}/certificates", summary="What clients need to reach an engine over TCP")
async def get_engine_certificates(ref: Ref, services: Wired) -> Item[CertificatesOut]:
    return Item(item=CertificatesOut.of(await _engines(services).certificates(ref)))


@router.post("/{ref}/certificates/renew", summary="Give an engine new certificates")
async def renew_engine_certificates(ref: Ref, services: Wired) -> Ok:
    """Nobody gets in with the former any more; connections that are there go on."""
    await _engines(services).renew_certificates(ref)
    return Ok()


@router.post("/{ref}/start", summary="Start an engine that is stopped or has failed")
async def start_engine(ref: Ref, services: Wired) -> Ok:
    await _engines(services).start(ref)
    return Ok()


@router.post("/{ref}/stop", summary="Stop an engine; its disk is kept")
async def stop_engine(ref: Ref, services: Wired, timeout_s: StopTimeout = None) -> Ok:
    await _engines(services).stop(ref, timeout_s)
    return Ok()


@router.post("/{ref}/pause", summary="Have an engine stand still in memory")
async def pause_engine(ref: Ref, services: Wired) -> Ok:
    """Its VM takes no processor time then. Connections to its socket and its ports stay, and wait;
    new requests at the socket are refused. It stays so when the manager is restarted, not when the
    host is."""
    await _engines(services).pause(ref)
    return Ok()


@router.post("/{ref}/unpause", summary="Have a paused engine go on where it was")
async def unpause_engine(ref: Ref, services: Wired) -> Ok:
    """Its clock has the time of the host then."""
    await _engines(services).unpause(ref)
    return Ok()


@router.post("/{ref}/park", summary="Put an engine's memory on the disk")
async def park_engine(ref: Ref, services: Wired) -> Ok:
    """Its VM ends, and its memory is free. Answers when all of it is on the disk. It survives a
    restart of the manager, and of the machine. What is connected to it is cut off."""
    await _engines(services).park(ref)
    return Ok()


@router.post("/{ref}/wake", summary="Have a parked engine go on where it was")
async def wake_engine(ref: Ref, services: Wired) -> Ok:
    """Answers when it runs, and its clock is right. One that cannot be woken stays parked."""
    await _engines(services).wake(ref)
    return Ok()


@router.post("/{ref}/snapshot", status_code=201, summary="Freeze a running engine into a snapshot")
async def snapshot_engine(ref: Ref, body: EngineSnapshotIn, services: Wired) -> Created:
    """The engine stands still for some tenths of a second, and runs on. The answer comes when the
    snapshot is ready; engines that are created from it have its containers running."""
    return Created(id=await _engines(services).snapshot(ref, body.name))


@router.post("/{ref}/fork", status_code=201, summary="Start engines from a running one as it is")
async def fork_engine(ref: Ref, body: ForkIn, services: Wired) -> Items[EngineOut]:
    """It stands still for some tenths of a second, and runs on. The answer comes when all of the
    forks run, with the containers that ran in it; if one does not come up, none stays. Each has the
    engine's name and a number, and an address of its own at which its ports answer."""
    made = await _engines(services).fork(ref, body.count, writable_folders=body.writable_folders)
    return Items(items=[EngineOut.of(engine) for engine in made])


@router.get("/{ref}/wait", summary="The engine, once it is so or the time is over")
async def wait_for_engine(
    ref: Ref,
    services: Wired,
    until: Annotated[EngineUntil, Query(description="what to wait for")] = EngineUntil.RUNNING,
    timeout_s: WaitTimeout = 60.0,
) -> Item[EngineOut]:
    """One that is started again, or goes on from a snapshot, runs when the containers do that come
    up with it, and their ports are published."""
    return Item(item=EngineOut.of(await _engines(services).wait(ref, until, timeout_s)))


@router.get(
    "/{ref}/boot-log",
    summary="What an engine's guest has said on its console",
    response_class=PlainTextResponse,
)
async def get_engine_boot_log(ref: Ref, services: Wired) -> PlainTextResponse:
    """Since its VM was booted or restored; the last 256 KiB. It outlives a VM that died."""
    said = await _engines(services).boot_log(ref)
    return PlainTextResponse(said.decode("utf-8", "replace"), headers=NOT_GUESSED)
