"""The simulated Docker Engine API: which request does what. What it keeps is in ``machine.ram``."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from warmboot.guest.docker import WARM_UP_IMAGE
from warmboot.hypervisors.simulated.vmm.docker import files, render, streams
from warmboot.hypervisors.simulated.vmm.docker.containers import Containers, signal_number, stamp
from warmboot.hypervisors.simulated.vmm.docker.events import EventLog
from warmboot.hypervisors.simulated.vmm.docker.execs import Execs
from warmboot.hypervisors.simulated.vmm.docker.http import (
    Answer,
    HttpError,
    Request,
    Response,
    Streaming,
    Upgrade,
)
from warmboot.hypervisors.simulated.vmm.docker.images import Images
from warmboot.hypervisors.simulated.vmm.docker.log_lines import Lines, tail
from warmboot.hypervisors.simulated.vmm.machine import Machine

Action = Callable[[Request, str], Awaitable[Answer]]


class Engine:
    """Docker in one machine. ``handle`` answers one request."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._events = EventLog(machine.ram["events"])
        self._images = Images(machine, self._events)
        self._containers = Containers(machine, self._images, self._events)
        self._execs = Execs(machine, self._containers)
        if machine.origin == "boot":
            self._images.add(WARM_UP_IMAGE, {"Cmd": ["/bin/true"]})  # part of the runtime image
        self._containers.resume_all()
        routes: list[tuple[str, str, Action]] = [
            ("GET|HEAD", r"_ping", self._ping),
            ("GET", r"version", self._version),
            ("GET", r"info", self._info),
            ("GET", r"events", self._stream_events),
            ("POST", r"images/create", self._pull_image),
            ("POST", r"images/load", self._load_images),
            ("GET", r"images/json", self._list_images),
            ("GET", r"images/(.+)/json", self._inspect_image),
            ("POST", r"images/(.+)/tag", self._tag_image),
            ("DELETE", r"images/(.+)", self._remove_image),
            ("POST", r"containers/create", self._create),
            ("GET", r"containers/json", self._list),
            ("GET", r"containers/([^/]+)/json", self._inspect),
            ("GET", r"containers/([^/]+)/logs", self._logs),
            ("POST", r"containers/([^/]+)/start", self._start),
            ("POST", r"containers/([^/]+)/stop", self._stop),
            ("POST", r"containers/([^/]+)/restart", self._restart),
            ("POST", r"containers/([^/]+)/kill", self._kill),
            ("POST", r"containers/([^/]+)/pause", self._pause),
            ("POST", r"containers/([^/]+)/unpause", self._unpause),
            ("POST", r"containers/([^/]+)/rename", self._rename),
            ("POST", r"containers/([^/]+)/resize", self._resize),
            ("GET", r"containers/([^/]+)/top", self._top),
            ("GET", r"containers/([^/]+)/changes", self._changes),
            ("GET", r"containers/([^/]+)/stats", self._stats),
            ("GET", r"containers/([^/]+)/archive", self._read_files),
            ("PUT", r"containers/([^/]+)/archive", self._write_files),
            ("POST", r"containers/([^/]+)/wait", self._wait),
            ("POST", r"containers/([^/]+)/attach", self._attach),
            ("POST", r"containers/([^/]+)/exec", self._create_exec),
            ("DELETE", r"containers/([^/]+)", self._remove),
            ("POST", r"exec/([^/]+)/start", self._start_exec),
            ("POST", r"exec/([^/]+)/resize", self._resize_exec),
            ("GET", r"exec/([^/]+)/json", self._inspect_exec),
        ]
        self._routes = [(methods.split("|"), re.compile(path), do) for methods, path, do in routes]

    async def handle(self, request: Request) -> Answer:
        await self._machine.clock.running()
        if request.method not in ("GET", "HEAD"):
            await self._machine.write()
        if not self._machine.docker_ready():
            raise HttpError(503, "Docker does not answer yet")
        path = re.sub(r"^/(v1\.\d+/)?", "", request.path)
        for methods, pattern, do in self._routes:
            match = pattern.fullmatch(path)
            if match and request.method in methods:
                return await do(request, match[1] if match.re.groups else "")
        raise HttpError(404, "page not found")

    # The engine itself

    async def _ping(self, request: Request, _: str) -> Answer:
        return Response(text="OK")

    async def _version(self, request: Request, _: str) -> Answer:
        return Response(json=render.version())

    async def _info(self, request: Request, _: str) -> Answer:
        containers = self._containers.list(everything=True)
        return Response(json=render.info(self._machine, containers, len(self._images.all())))

    async def _stream_events(self, request: Request, _: str) -> Answer:
        return Streaming(self._events.stream(request.query))

    # Images

    async def _pull_image(self, request: Request, _: str) -> Answer:
        repository = request.query.get("fromImage", "")
        if not repository:
            raise HttpError(400, "fromImage is missing")
        return Streaming(await self._images.pull(repository, request.query.get("tag", "")))

    async def _load_images(self, request: Request, _: str) -> Answer:
        import tempfile  # seldom needed, and slow to load

        with tempfile.NamedTemporaryFile(dir=Path.cwd(), prefix="load-") as file:
            async for chunk in request.chunks():
                file.write(chunk)
            file.flush()
            return Streaming(await self._images.load(Path(file.name)))

    async def _list_images(self, request: Request, _: str) -> Answer:
        return Response(json=[self._rendered(image) for image in self._images.all()])

    async def _inspect_image(self, request: Request, name: str) -> Answer:
        return Response(json=self._rendered(self._images.find(name)))

    def _rendered(self, image: dict[str, Any]) -> dict[str, Any]:
        return render.image(image, self._images.names(image["id"]))

    async def _tag_image(self, request: Request, name: str) -> Answer:
        self._images.tag(name, request.query.get("repo", ""), request.query.get("tag", ""))
        return Response(201)

    async def _remove_image(self, request: Request, name: str) -> Answer:
        untagged, deleted = self._images.remove(name)
        told = [{"Untagged": one} for one in untagged]
        return Response(json=told + ([{"Deleted": deleted}] if deleted else []))

    # Containers

    async def _create(self, request: Request, _: str) -> Answer:
        record = self._containers.create(request.query.get("name", ""), await request.json())
        return Response(201, {"Id": record["id"], "Warnings": []})

    async def _list(self, request: Request, _: str) -> Answer:
        filters = json.loads(request.query.get("filters") or "{}")
        listed = [
            render.container_summary(record)
            for record in self._containers.list(request.flag("all"))
            if render.matches(record, filters)
        ]
        return Response(json=listed)

    async def _inspect(self, request: Request, name: str) -> Answer:
        return Response(json=render.container(self._containers.find(name)))

    async def _start(self, request: Request, name: str) -> Answer:
        return Response(204 if self._containers.start(self._containers.find(name)) else 304)

    async def _stop(self, request: Request, name: str) -> Answer:
        record = self._containers.find(name)
        return Response(204 if await self._containers.stop(record, *_stopping(request)) else 304)

    async def _restart(self, request: Request, name: str) -> Answer:
        record = self._containers.find(name)
        await self._containers.stop(record, *_stopping(request))
        self._containers.start(record)
        return Response(204)

    async def _kill(self, request: Request, name: str) -> Answer:
        record = self._containers.find(name)
        signum = signal_number(request.query.get("signal") or "SIGKILL")
        if not self._containers.end(record, signum):
            raise HttpError(
                409, f"cannot kill container: {name}: container {record['id']} is not running"
            )
        return Response(204)

    async def _pause(self, request: Request, name: str) -> Answer:
        self._containers.set_paused(self._containers.find(name), True)
        return Response(204)

    async def _unpause(self, request: Request, name: str) -> Answer:
        self._containers.set_paused(self._containers.find(name), False)
        return Response(204)

    async def _rename(self, request: Request, name: str) -> Answer:
        self._containers.rename(self._containers.find(name), request.query.get("name", ""))
        return Response(204)

    async def _resize(self, request: Request, name: str) -> Answer:
        self._containers.find(name)
        return Response()

    async def _top(self, request: Request, name: str) -> Answer:
        options = request.query.get("ps_args", "")
        return Response(json=files.processes(self._containers.find(name), options))

    async def _stats(self, request: Request, name: str) -> Answer:
        if request.query.get("stream") not in ("0", "false"):
            raise HttpError(501, "only stream=false is simulated")
        return Response(json=render.stats(self._containers.find(name), self._machine))

    async def _changes(self, request: Request, name: str) -> Answer:
        return Response(json=files.changes(self._containers.find(name)))

    async def _read_files(self, request: Request, name: str) -> Answer:
        record, path = self._containers.find(name), request.query.get("path", "")
        told, data = files.status(record, path), files.packed(record, path)

        async def chunks() -> AsyncIterator[bytes]:
            yield data

        headers = (f"X-Docker-Container-Path-Stat: {told}",)
        return Streaming(chunks(), "application/x-tar", headers)

    async def _write_files(self, request: Request, name: str) -> Answer:
        folder = request.query.get("path", "")
        files.unpack(self._containers.find(name), folder, await request.body())
        return Response()

    async def _remove(self, request: Request, name: str) -> Answer:
        self._containers.remove(self._containers.find(name), request.flag("force"))
        return Response(204)

    async def _wait(self, request: Request, name: str) -> Answer:
        record = self._containers.find(name)
        condition = request.query.get("condition", "not-running")

        async def outcome() -> AsyncIterator[bytes]:
            status = await self._containers.wait_exit(record, condition)
            yield json.dumps({"StatusCode": status}).encode() + b"\n"

        return Streaming(outcome())

    async def _logs(self, request: Request, name: str) -> Answer:
        record = self._containers.find(name)
        tty = bool(record["config"]["Tty"])
        wanted_lines = request.query.get("tail", "all")
        wanted = {n for n, key in ((1, "stdout"), (2, "stderr")) if request.flag(key)}
        if not wanted:
            raise HttpError(400, "Bad parameters: you must choose at least one stream")
        stamps = request.flag("timestamps")
        since, until = (_moment(request.query.get(key)) for key in ("since", "until"))

        async def lines() -> AsyncIterator[bytes]:
            start, skipped = tail(record, wanted_lines)
            entries = self._containers.follow(record, start, until_exit=request.flag("follow"))
            cut = Lines()
            async for moment, stream, data in entries:
                if until and moment > until:
                    return
                data, skipped = data[skipped:], 0
                if stream not in wanted or moment < since:
                    continue
                if stamps:
                    data = b"".join(
                        f"{moment} ".encode() * begins + line
                        for line, begins in cut.of(stream, data)
                    )
                yield streams.frame(stream, data, tty)

        kind = "raw" if tty else "multiplexed"
        return Streaming(lines(), f"application/vnd.docker.{kind}-stream")

    async def _attach(self, request: Request, name: str) -> Answer:
        record = self._containers.find(name)
        tty = bool(record["config"]["Tty"])
        stdin = self._containers.stdin(record) if request.flag("stdin") else None
        written = self._containers.follow(record, 0, until_exit=False)
        before = [entry async for entry in written] if request.flag("logs") else []
        listener = self._containers.attach(record)

        async def frames() -> AsyncGenerator[bytes, None]:
            with contextlib.closing(listener):
                for _, stream, data in before:
                    yield streams.frame(stream, data, tty)
                async for stream, data in listener:
                    yield streams.frame(stream, data, tty)

        async def converse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            async with streams.feeding(reader, stdin, self._machine.clock, tty):
                await streams.send(writer, frames())

        return Upgrade(converse)

    # Execs

    async def _create_exec(self, request: Request, name: str) -> Answer:
        return Response(201, {"Id": self._execs.create(name, await request.json())["id"]})

    async def _start_exec(self, request: Request, exec_id: str) -> Answer:
        body = await request.json()
        return self._execs.start(self._execs.find(exec_id), bool(body.get("Detach")))

    async def _resize_exec(self, request: Request, exec_id: str) -> Answer:
        self._execs.find(exec_id)
        return Response()

    async def _inspect_exec(self, request: Request, exec_id: str) -> Answer:
        return Response(json=self._execs.inspect(self._execs.find(exec_id)))


def _stopping(request: Request) -> tuple[int | None, float]:
    """The signal (``None``: the container's own) and the seconds that a stop was asked for."""
    name = request.query.get("signal")
    return signal_number(name) if name else None, float(request.query.get("t") or 10)


def _moment(seconds: str | None) -> str:
    """Seconds since 1970 as a log entry's time."""
    return stamp(datetime.fromtimestamp(float(seconds), UTC)) if seconds else ""
