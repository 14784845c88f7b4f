"""``/v1/containers``."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Request, WebSocket, WebSocketDisconnect
from fastapi.responses import PlainTextResponse, StreamingResponse
from pydantic import AwareDatetime

from warmboot.api.problems import refuse
from warmboot.api.routes import sessions
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
from warmboot.api.schemas.container_requests import ContainerIn, RenameIn
from warmboot.api.schemas.container_responses import ContainerOut
from warmboot.api.schemas.requests import ForkIn, Signal
from warmboot.api.schemas.responses import Created, Item, Items, Ok, Paged
from warmboot.api.streams import (
    MULTIPLEXED,
    NOT_GUESSED,
    Streamed,
    begun,
    gathered,
    multiplexed,
    plain,
)
from warmboot.manager.protocols import Services, Until
from warmboot.model.container import LIVING, ContainerState
from warmboot.model.errors import WarmbootError

router = APIRouter(prefix="/v1/containers", tags=["containers"])

_LOG_TYPES = {
    "text/plain": {"schema": {"type": "string"}},
    MULTIPLEXED: {"schema": {"type": "string", "format": "binary"}},
}


@router.post("", status_code=201, summary="Create a container, and start it in a VM of its own")
async def create_container(body: ContainerIn, services: Wired) -> Created:
    return Created(
        id=await services.containers.create(body.to_model(), attach=body.attach, start=body.start)
    )


@router.get("", summary="List containers")
async def list_containers(
    services: Wired,
    wanted: Paging,
    all: Annotated[
        bool, Query(description="those too that do not run; needless beside state")
    ] = False,
    state: Annotated[
        tuple[ContainerState, ...],
        Query(max_length=16, description="only those in one of these states"),
    ] = (),
    name: Part = "",
    label: Labels = (),
) -> Paged[ContainerOut]:
    """Newest first."""
    states = state or (None if all else LIVING)
    page = await services.pages.containers(named(wanted, name), states, as_asked(name, label))
    return paged(page, ContainerOut.of)


@router.get("/{ref}", summary="Show a container")
async def get_container(ref: Ref, services: Wired) -> Item[ContainerOut]:
    return Item(item=ContainerOut.of(await services.containers.get(ref)))


@router.delete("/{ref}", summary="Remove a container and its VM")
async def delete_container(
    ref: Ref,
    services: Wired,
    force: Annotated[bool, Query(description="also when it runs")] = False,
) -> Ok:
    await services.containers.delete(ref, force=force)
    return Ok()


@router.patch("/{ref}", summary="Rename a container")
async def rename_container(ref: Ref, body: RenameIn, services: Wired) -> Item[ContainerOut]:
    """Its host name stays as it is."""
    return Item(item=ContainerOut.of(await services.containers.rename(ref, body.name)))


@router.post("/{ref}/start", summary="Start a container that does not run")
async def start_container(ref: Ref, services: Wired) -> Ok:
    await services.containers.start(ref)
    return Ok()


@router.post("/{ref}/stop", summary="Stop a container")
async def stop_container(
    ref: Ref,
    services: Wired,
    timeout_s: StopTimeout = None,
    signal: Annotated[
        Signal | None, Query(description="instead of the container's own stop signal")
    ] = None,
) -> Ok:
    await services.containers.stop(ref, timeout_s, signal)
    return Ok()


@router.post("/{ref}/kill", summary="Send a signal to a container's process")
async def kill_container(
    ref: Ref,
    services: Wired,
    signal: Annotated[Signal, Query(description="its name or number")] = "SIGKILL",
) -> Ok:
    await services.containers.kill(ref, signal)
    return Ok()


@router.post("/{ref}/pause", summary="Have a container stand still in memory")
async def pause_container(ref: Ref, services: Wired) -> Ok:
    """Its VM takes no processor time then. Connections and sessions stay, and wait; what would have
    to ask the VM is refused. It stays so when the manager is restarted, not when the host is."""
    await services.containers.pause(ref)
    return Ok()


@router.post("/{ref}/unpause", summary="Have a paused container go on where it was")
async def unpause_container(ref: Ref, services: Wired) -> Ok:
    """Its clock has the time of the host then."""
    await services.containers.unpause(ref)
    return Ok()


@router.post("/{ref}/park", summary="Put a container's memory on the disk")
async def park_container(ref: Ref, services: Wired) -> Ok:
    """Its VM ends, and its memory is free. Answers when all of it is on the disk. It survives a
    restart of the manager, and of the machine. What is connected to it is cut off; it keeps its
    ports."""
    await services.containers.park(ref)
    return Ok()


@router.post("/{ref}/wake", summary="Have a parked container go on where it was")
async def wake_container(ref: Ref, services: Wired) -> Ok:
    """Answers when it runs, and its clock is right. One that cannot be woken stays parked."""
    await services.containers.wake(ref)
    return Ok()


@router.post("/{ref}/fork", status_code=201, summary="Start containers from a running one as it is")
async def fork_container(ref: Ref, body: ForkIn, services: Wired) -> Items[ContainerOut]:
    """It stands still for some tenths of a second, and runs on. The answer comes when all of the
    forks run, with the memory and the disk of that moment; if one does not come up, none stays.
    Each has the container's name and a number, an identity of its own, and other ports of the
    host."""
    made = await services.containers.fork(ref, body.count, writable_folders=body.writable_folders)
    return Items(items=[ContainerOut.of(container) for container in made])


@router.post("/{ref}/restart", summary="Stop and start a container")
async def restart_container(ref: Ref, services: Wired, timeout_s: StopTimeout = None) -> Ok:
    await services.containers.restart(ref, timeout_s)
    return Ok()


@router.get("/{ref}/wait", summary="The container, once it is so or the time is over")
async def wait_for_container(
    ref: Ref,
    services: Wired,
    until: Annotated[Until, Query(description="what to wait for")] = Until.EXITED,
    timeout_s: WaitTimeout = 60.0,
) -> Item[ContainerOut]:
    return Item(item=ContainerOut.of(await services.containers.wait(ref, until, timeout_s)))


@router.get(
    "/{ref}/logs",
    summary="What a container has written",
    response_class=StreamingResponse,
    responses={200: {"description": "Its output, as text or framed", "content": _LOG_TYPES}},
)
async def get_container_logs(
    ref: Ref,
    request: Request,
    services: Wired,
    follow: Annotated[bool, Query(description="go on until it exits")] = False,
    tail: Annotated[int | None, Query(ge=0, le=1_000_000, description="last lines only")] = None,
    timestamps: Annotated[bool, Query(description="a time before every line")] = False,
    since: Annotated[AwareDatetime | None, Query(description="lines from this time on")] = None,
    until: Annotated[AwareDatetime | None, Query(description="lines before this time")] = None,
) -> Streamed:
    """With ``Accept: application/vnd.docker.multiplexed-stream`` stdout and stderr are framed."""
    await services.containers.get(ref)
    chunks = await begun(
        services.containers.logs(
            ref, follow=follow, tail=tail, timestamps=timestamps, since=since, until=until
        )
    )
    if MULTIPLEXED in request.headers.get("accept", ""):
        return Streamed(gathered(multiplexed(chunks)), media_type=MULTIPLEXED)
    return Streamed(gathered(plain(chunks)), media_type="text/plain; charset=utf-8")


@router.get(
    "/{ref}/boot-log",
    summary="What a container's guest has said on its console",
    response_class=PlainTextResponse,
)
async def get_container_boot_log(ref: Ref, services: Wired) -> PlainTextResponse:
    """Since its VM was booted or restored; the last 256 KiB. It outlives a VM that died."""
    said = await services.containers.boot_log(ref)
    return PlainTextResponse(said.decode("utf-8", "replace"), headers=NOT_GUESSED)


@router.websocket("/{ref}/exec")
async def exec_(ws: WebSocket, ref: Ref) -> None:
    """Run a command in a running container; see ``sessions``."""
    services: Services = ws.app.state.services
    try:
        await services.containers.get(ref)
    except WarmbootError as error:
        await refuse(error, ws.scope, ws.receive, ws.send)
        return
    await ws.accept()
    try:
        spec, size = await sessions.receive_start(ws)
        session = await services.containers.exec(ref, spec)
        await sessions.pump(ws, session, size)
    except WarmbootError as error:
        await sessions.tell_error(ws, error)
    except WebSocketDisconnect:
        return


@router.websocket("/{ref}/attach")
async def attach(ws: WebSocket, ref: Ref, logs: bool = True, start: bool = False) -> None:
    """The container's own process; ``logs``: from its first output on. See ``sessions``."""
    services: Services = ws.app.state.services
    try:
        container = await services.containers.get(ref)
        # One that is being created may take minutes: its client is told when it is so far.
        early = start or container.state is ContainerState.CREATING
        session = None if early else await services.containers.attach(ref, logs=logs)
    except WarmbootError as error:
        await refuse(error, ws.scope, ws.receive, ws.send)
        return
    try:
        await ws.accept()
        if session is None:
            coming = services.containers.attach(ref, logs=logs, start=start)
            session = await sessions.unless_gone(ws, coming)
        await sessions.pump(ws, session)
    except WarmbootError as error:
        await sessions.tell_error(ws, error)
    except WebSocketDisconnect:
        return
    finally:
        if session is not None:
            await session.close()
