"""``/v1/workers``."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Query, Request, Response
from fastapi.responses import StreamingResponse

from warmboot.api.middleware.after_response import after_response
from warmboot.api.middleware.auth import worker_caller
from warmboot.api.routing import (
    Labels,
    Paging,
    Part,
    Ref,
    WaitTimeout,
    Wired,
    as_asked,
    named,
    paged,
)
from warmboot.api.schemas.responses import Created, Item, Ok, Paged
from warmboot.api.schemas.worker_requests import PauseIn, ReportIn, ResumeIn, WorkerIn
from warmboot.api.schemas.worker_responses import ChangedFileOut, ResumedOut, WorkerOut
from warmboot.api.streams import Streamed, begun, gathered, plain
from warmboot.manager.protocols import Workers, WorkerUntil
from warmboot.model.errors import EngineUnavailable
from warmboot.model.worker import WorkerState

router = APIRouter(prefix="/v1/workers", tags=["workers"])


async def _workers(services: Wired) -> Workers:
    if services.workers is None:
        raise EngineUnavailable(
            "this manager has no Docker engine for workers",
            resolution="set MANAGER_DOCKER_HOST to its socket and restart the manager",
        )
    return services.workers


Wiring = Annotated[Workers, Depends(_workers)]


@router.post("", status_code=201, summary="Create and start a worker; its state tells how it goes")
async def create_worker(body: WorkerIn, workers: Wiring) -> Created:
    return Created(id=await workers.create(body.to_model()))


@router.get("", summary="List workers")
async def list_workers(
    services: Wired,
    workers: Wiring,
    wanted: Paging,
    state: Annotated[
        tuple[WorkerState, ...],
        Query(max_length=16, description="only those in one of these states"),
    ] = (),
    name: Part = "",
    label: Labels = (),
) -> Paged[WorkerOut]:
    """Newest first."""
    page = await services.pages.workers(named(wanted, name), state or None, as_asked(name, label))
    return paged(page, WorkerOut.of)


@router.get("/{ref}", summary="Show a worker")
async def get_worker(ref: Ref, workers: Wiring) -> Item[WorkerOut]:
    return Item(item=WorkerOut.of(await workers.get(ref)))


@router.delete("/{ref}", summary="Remove a worker, its container and its checkpoints")
async def delete_worker(
    ref: Ref,
    workers: Wiring,
    force: Annotated[bool, Query(description="also when it runs")] = False,
) -> Ok:
    await workers.delete(ref, force=force)
    return Ok()


@router.get("/{ref}/wait", summary="The worker, once it is so or the time is over")
async def wait_for_worker(
    ref: Ref,
    workers: Wiring,
    until: Annotated[WorkerUntil, Query(description="what to wait for")] = WorkerUntil.SETTLED,
    timeout_s: WaitTimeout = 60.0,
) -> Item[WorkerOut]:
    return Item(item=WorkerOut.of(await workers.wait(ref, until, timeout_s)))


@router.get(
    "/{ref}/logs",
    summary="What a worker has written",
    response_class=StreamingResponse,
    responses={
        200: {
            "description": "Its output, as text",
            "content": {"text/plain": {"schema": {"type": "string"}}},
        }
    },
)
async def get_worker_logs(
    ref: Ref,
    workers: Wiring,
    follow: Annotated[bool, Query(description="go on until it ends or is paused")] = False,
    tail: Annotated[int | None, Query(ge=0, le=1_000_000, description="last lines only")] = None,
) -> Streamed:
    chunks = await begun(workers.logs(ref, follow=follow, tail=tail))
    return Streamed(gathered(plain(chunks)), media_type="text/plain; charset=utf-8")


@router.post(
    "/{ref}/pause",
    summary="Pause a worker into a checkpoint",
    responses={202: {"description": "It will be paused now", "model": Item[WorkerOut]}},
)
async def pause_worker(
    ref: Ref, request: Request, response: Response, workers: Wiring, body: PauseIn | None = None
) -> Item[WorkerOut]:
    """Answers when it is paused. To the worker itself (by its token), and with ``wait: false``,
    it answers 202 at once, and the pause begins after that. One that is not done within
    ``timeout_s`` is ended: the worker runs on, and `error` in it says why."""
    asked = body or PauseIn()
    if asked.wait and worker_caller(request.scope) is None:
        return Item(item=WorkerOut.of(await workers.pause(ref, asked.checkpoint, asked.timeout_s)))
    worker, begin = await workers.ask_pause(ref, asked.checkpoint, asked.timeout_s)
    after_response(request, begin)
    response.status_code = 202
    return Item(item=WorkerOut.of(worker))


@router.post("/{ref}/resume", summary="Resume a worker from a checkpoint")
async def resume_worker(
    ref: Ref, workers: Wiring, body: ResumeIn | None = None
) -> Item[ResumedOut]:
    """Answers when its process has run again, or says why it has not. After ``timeout_s`` it is
    ended, and the worker is still paused."""
    wanted = body or ResumeIn()
    resumed = await workers.resume(ref, wanted.checkpoint, wanted.options, wanted.timeout_s)
    changed = [ChangedFileOut.of(one) for one in resumed.changed_files]
    return Item(item=ResumedOut.of(resumed.worker).model_copy(update={"changed_files": changed}))


@router.post("/{ref}/wake", summary="Make a worker run, whether it is paused or not")
async def wake_worker(ref: Ref, workers: Wiring) -> Item[WorkerOut]:
    return Item(item=WorkerOut.of(await workers.wake(ref)))


@router.post("/{ref}/events", status_code=201, summary="What a worker reports; it becomes an event")
async def report_worker_event(ref: Ref, body: ReportIn, workers: Wiring) -> Ok:
    await workers.report(ref, body.kind, body.data)
    return Ok()
