"""``/v1/events``: lists events, or follows them as they happen."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Header, Query, Request
from fastapi.responses import Response
from pydantic import Field
from pydantic.json_schema import SkipJsonSchema

from warmboot.api.routing import MAX_INT64, Wired
from warmboot.api.schemas.requests import EVENT_CURSOR_PATTERN, WORD_PATTERN
from warmboot.api.schemas.responses import EventOut, Paged
from warmboot.api.streams import EVENT_STREAM, Streamed, event_stream

router = APIRouter(prefix="/v1/events", tags=["events"])

_SENT_EVENT = {
    "type": "object",
    "properties": {
        "id": {"type": "string"},
        "event": {"type": "string"},
        "data": {"type": "string", "contentMediaType": "application/json"},
    },
}
_STREAM: dict[int | str, dict[str, Any]] = {
    200: {
        "model": Paged[EventOut],
        "description": "A list, or with follow an endless stream of server-sent events",
        "content": {EVENT_STREAM: {"schema": _SENT_EVENT}},
    }
}
EventKind = Annotated[str, Field(min_length=1, max_length=64, pattern=WORD_PATTERN)]
SentEventId = Annotated[int, Field(ge=0, le=MAX_INT64)]
EventId = Annotated[int | None, Query(ge=0, le=MAX_INT64, description="events after this id")]


@router.get("", summary="List events, or follow them", responses=_STREAM, response_model=None)
async def list_events(
    request: Request,
    services: Wired,
    after: EventId = None,
    limit: Annotated[
        int, Query(ge=1, le=1000, description="of a list; a stream has no end if it is not given")
    ] = 100,
    cursor: Annotated[
        str | None,
        Query(
            pattern=EVENT_CURSOR_PATTERN,
            description="the next_cursor of the list before, instead of after",
        ),
    ] = None,
    kind: Annotated[
        tuple[EventKind, ...], Query(max_length=32, description="only events of these kinds")
    ] = (),
    follow: Annotated[bool, Query(description="server-sent events, from now on")] = False,
    last_event_id: Annotated[
        SentEventId | SkipJsonSchema[None], Header(description="where an event stream was cut off")
    ] = None,
) -> Paged[EventOut] | Response:
    """``Accept: text/event-stream`` means ``follow`` too."""
    if cursor is not None:
        after = int(cursor)
    if follow or EVENT_STREAM in request.headers.get("accept", ""):
        since = after if last_event_id is None else last_event_id
        most = limit if "limit" in request.query_params else None
        return Streamed(
            event_stream(services.events.follow(since, kind), most),
            media_type=EVENT_STREAM,
            headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"},
        )
    found = await services.events.list(after or 0, limit, kind)
    more = str(found[-1].id) if len(found) == limit else None
    return Paged(items=[EventOut.of(event) for event in found], next_cursor=more)
