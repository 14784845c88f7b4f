"""Exec and attach over a WebSocket.

    client                                   server
      │  {"type":"start","command":[…],…}  ▶ │   exec only
      │ ◀ {"type":"started"}                 │   or {"type":"error", …a problem…}
      │  0x00 data (stdin)                 ▶ │
      │  {"type":"resize","rows":…,          │
      │   "columns":…}, {"type":"eof"}     ▶ │
      │ ◀ 0x01 data (stdout), 0x02 (stderr)  │
      │ ◀ {"type":"exit","exit_code":0}      │   then it is closed with 1000

Text frames are JSON control frames, binary frames are data behind one byte that names the stream.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Awaitable
from typing import Any

from fastapi import WebSocket, WebSocketDisconnect
from pydantic import ValidationError

from warmboot.api.problems import DoesNotFit, clean, findings, status_of
from warmboot.api.schemas.requests import ResizeIn, StartIn
from warmboot.api.streams import STREAM_TAGS
from warmboot.manager.protocols import Session
from warmboot.model.conventions.program_start import check_size
from warmboot.model.errors import InvalidRequest, WarmbootError
from warmboot.model.sessions import ExecSpec
from warmboot.system.concurrency import race

log = logging.getLogger(__name__)

START_TIMEOUT_S = 30.0
STDIN_TAG = 0
CLOSE_INVALID, CLOSE_FAILED = 1007, 1011


async def receive_start(ws: WebSocket) -> tuple[ExecSpec, ResizeIn | None]:
    """The first frame: what to run, and the terminal's size when it is known."""
    try:
        async with asyncio.timeout(START_TIMEOUT_S):
            control = parse_control(await _receive(ws))
    except TimeoutError as error:
        raise InvalidRequest(
            f"no start frame within {START_TIMEOUT_S:g} s",
            resolution='send {"type": "start", "command": […]} first',
        ) from error
    start = _validated(StartIn, control)
    check_size(start.command, start.environment)
    spec = ExecSpec(
        command=tuple(start.command),
        tty=start.tty,
        stdin=start.stdin,
        detach=start.detach,
        environment=tuple(start.environment),
        user=start.user,
        working_dir=start.working_dir,
    )
    if start.rows is None or start.columns is None:
        return spec, None
    return spec, ResizeIn(rows=start.rows, columns=start.columns)


async def _receive(ws: WebSocket) -> str | bytes:
    message = await ws.receive()
    if message["type"] == "websocket.disconnect":
        raise WebSocketDisconnect(message.get("code", 1006))
    text = message.get("text")
    if text is not None:
        return str(text)
    return bytes(message.get("bytes") or b"")


def parse_control(received: str | bytes) -> dict[str, Any]:
    """A JSON object, or ``InvalidRequest``."""
    try:
        control = json.loads(received) if isinstance(received, str) else None
    except (ValueError, RecursionError):
        control = None
    if not isinstance(control, dict):
        raise InvalidRequest(
            "this frame is not a control frame", resolution="send a JSON object as a text frame"
        )
    return control


def _validated(model: type[Any], control: dict[str, Any]) -> Any:
    try:
        return model.model_validate(control)
    except ValidationError as error:
        raise DoesNotFit(error.errors()) from error


async def unless_gone(ws: WebSocket, beginning: Awaitable[Session]) -> Session:
    """The session, if its client waits for it, which has nothing to say until then."""
    begun, said = await race(beginning, _receive(ws))
    if begun is not None:
        return begun.result()
    assert said is not None
    said.result()
    raise InvalidRequest("the session has not begun", resolution="wait for the frame `started`")


async def pump(ws: WebSocket, session: Session, size: ResizeIn | None = None) -> None:
    """Carry data both ways until the process ends or the client goes; then close the session."""
    try:
        await ws.send_text('{"type":"started"}')
        if size is not None:
            await session.resize(size.rows, size.columns)
        outgoing, incoming = await race(_carry_output(ws, session), _carry_input(ws, session))
        if outgoing is not None:  # whatever came in meanwhile
            outgoing.result()
            code = await session.exit_code()
            await ws.send_text(json.dumps({"type": "exit", "exit_code": code}))
            await ws.close(1000)
        elif incoming is not None:
            incoming.result()
    finally:
        await session.close()


async def _carry_output(ws: WebSocket, session: Session) -> None:
    async for chunk in session:
        await ws.send_bytes(bytes((STREAM_TAGS[chunk.stream],)) + chunk.data)


async def _carry_input(ws: WebSocket, session: Session) -> None:
    while True:
        received = await _receive(ws)
        if isinstance(received, bytes):
            if not received or received[0] != STDIN_TAG:
                raise InvalidRequest("a data frame begins with the byte 0 (stdin)")
            await session.write(received[1:])
            continue
        control = parse_control(received)
        match control.get("type"):
            case "resize":
                size = _validated(ResizeIn, control)
                await session.resize(size.rows, size.columns)
            case "eof":
                await session.write_eof()
            case _:
                raise InvalidRequest(
                    "unknown control frame", resolution="send resize or eof, or a data frame"
                )


async def tell_error(ws: WebSocket, error: WarmbootError) -> None:
    """The error as a last control frame, then the end."""
    body = {**error.as_dict(), **findings(error), "type": "error", "status": status_of(error)}
    await ws.send_text(json.dumps(body))
    code = CLOSE_INVALID if isinstance(error, InvalidRequest) else CLOSE_FAILED
    await ws.close(code, clean(error.brief)[:100])
