"""Containers of the simulated Docker: their records in RAM and the tasks that run them.

created ──start──▶ running ⇄ exited ──▶ (removed)
                      │  ▲
                   pause unpause
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import signal
from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any

from warmboot.hypervisors.simulated.vmm.docker import environments, policies, programs, streams
from warmboot.hypervisors.simulated.vmm.docker.attached import Attached, Listener
from warmboot.hypervisors.simulated.vmm.docker.events import EventLog
from warmboot.hypervisors.simulated.vmm.docker.http import HttpError
from warmboot.hypervisors.simulated.vmm.docker.images import Images
from warmboot.hypervisors.simulated.vmm.docker.log_lines import DEFAULT_LOG_DRIVER, logged
from warmboot.hypervisors.simulated.vmm.machine import Machine

NEVER = "0001-01-01T00:00:00Z"
MAX_LOG_ENTRIES = 10_000

Record = dict[str, Any]


def stamp(moment: datetime) -> str:
    return moment.isoformat(timespec="microseconds").replace("+00:00", "000Z")


def now() -> str:
    return stamp(datetime.now(UTC))


class Containers:
    """All containers of one machine."""

    def __init__(self, machine: Machine, images: Images, events: EventLog) -> None:
        self._machine = machine
        self._images = images
        self._events = events
        self._records: dict[str, Record] = machine.ram["containers"]
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._checks: dict[str, asyncio.Task[None]] = {}
        self._stdin: dict[str, asyncio.Queue[bytes]] = {}
        self._attached = Attached()
        self._changed = asyncio.Event()

    def resume_all(self) -> None:
        """Let the processes run on that ran when the VM was saved."""
        for record in self._records.values():
            if record["state"]["Restarting"]:
                self._tasks[record["id"]] = asyncio.create_task(self._again(record))
            elif record["state"]["Running"]:
                self._run(record)

    def list(self, everything: bool) -> list[Record]:
        return [c for c in self._records.values() if everything or c["state"]["Running"]]

    def find(self, name: str) -> Record:
        """The record of a container, by its id, name or the beginning of its id; else 404."""
        for record in self._records.values():
            if name in (record["id"], record["name"]):
                return record
        matches = [c for c in self._records.values() if name and c["id"].startswith(name)]
        if len(matches) == 1:
            return matches[0]
        raise HttpError(404, f"No such container: {name}")

    def create(self, name: str, body: Record) -> Record:
        image = self._images.find(body.get("Image", ""))
        policies.check(body)
        name = name.removeprefix("/") or f"simulated_{secrets.token_hex(4)}"
        self._check_name_is_free(name)
        config = {
            "Hostname": "",
            "Tty": False,
            "OpenStdin": False,
            "StdinOnce": False,
            "AttachStdin": False,
            "Labels": {},
            **{key: value for key, value in body.items() if key != "HostConfig"},
        }
        config["Env"] = environments.merged(body.get("Env") or [], image["config"].get("Env") or [])
        config["Healthcheck"] = body.get("Healthcheck") or image["config"].get("Healthcheck")
        config["Cmd"] = body.get("Cmd")
        config["Entrypoint"] = body.get("Entrypoint")
        if config["Entrypoint"] is None:
            config["Entrypoint"] = image["config"].get("Entrypoint")
            config["Cmd"] = config["Cmd"] or image["config"].get("Cmd")
        container_id = secrets.token_hex(32)
        config["Hostname"] = config["Hostname"] or container_id[:12]
        record: Record = {
            "id": container_id,
            "name": name,
            "config": config,
            "host_config": body.get("HostConfig") or {},
            "image_id": image["id"],
            "created": now(),
            "state": _state("created"),
            "ignored": [],
            "restarts": 0,
            "stopped": False,
            "runs": 0,
            "exits": 0,
            "log": [],
            "dropped": 0,
            "program": None,
        }
        self._records[container_id] = record
        self._emit(record, "create")
        return record

    def start(self, record: Record) -> bool:
        """False if it runs already."""
        if record["state"]["Running"]:
            return False
        config = record["config"]
        command = [*_words(config["Entrypoint"]), *_words(config["Cmd"])]
        if (refused := programs.refusal(command)) is not None:
            code, why = refused
            message = (
                f"failed to create task for container: OCI runtime create failed: {why}: unknown"
            )
            record["state"] |= {"ExitCode": code, "Error": message}
            self._attached.end(record["id"])  # Docker tells the code to who is attached
            raise HttpError(400, message)
        record["restarts"] = 0
        record["stopped"] = False
        self._begin(record, command)
        return True

    def _begin(self, record: Record, command: Sequence[str]) -> None:
        record["program"] = programs.compile_command(command)
        record["ignored"] = []
        record["state"] = _state("running") | {"Running": True, "StartedAt": now(), "Pid": 1000}
        record["runs"] += 1
        self._run(record)
        self._emit(record, "start")

    def end(self, record: Record, signum: int) -> bool:
        """End the process as a signal does, if it does not ignore it; false if it does not run."""
        if not record["state"]["Running"]:
            return False
        self._emit(record, "kill", signal=str(signum))
        record["stopped"] = True
        if signum not in record["ignored"]:
            self._cancel(record)
            self._exited(record, 128 + signum)
        return True

    async def stop(self, record: Record, signum: int | None, timeout_s: float) -> bool:
        if signum is None:
            signum = signal_number(record["config"].get("StopSignal") or "SIGTERM")
        if not self.end(record, signum):
            return False
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self.wait_exit(record, "not-running")
        self.end(record, signal.SIGKILL)
        self._emit(record, "stop")
        return True

    def set_paused(self, record: Record, paused: bool) -> None:
        state = record["state"]
        if not state["Running"] or state["Paused"] == paused:
            what = "not running" if not state["Running"] else "already in that state"
            raise HttpError(409, f"Container {record['id']} is {what}")
        state["Paused"] = paused
        state["Status"] = "paused" if paused else "running"
        if paused:
            self._cancel(record)
        else:
            self._run(record)
        self._emit(record, "pause" if paused else "unpause")

    def remove(self, record: Record, force: bool) -> None:
        if record["state"]["Running"]:
            if not force:
                raise HttpError(
                    409,
                    f'cannot remove container "/{record["name"]}": container is running: stop '
                    "the container before removing or force remove",
                )
            self.end(record, signal.SIGKILL)
        if self._records.pop(record["id"], None) is not None:
            self._attached.end(record["id"])
            self._emit(record, "destroy")

    def rename(self, record: Record, name: str) -> None:
        self._check_name_is_free(name)
        record["name"] = name
        self._emit(record, "rename")

    async def wait_exit(self, record: Record, condition: str) -> int:
        exits = record["exits"] + (condition == "next-exit")
        while (
            record["state"]["Running"]
            or record["exits"] < exits
            or (condition == "removed" and record["id"] in self._records)
        ):
            await self._changed.wait()
        return int(record["state"]["ExitCode"])

    async def follow(
        self, record: Record, start: int, until_exit: bool = True
    ) -> AsyncIterator[tuple[str, int, bytes]]:
        """Log entries (time, 1 or 2, bytes) from number ``start``, until its (next) exit."""
        exits = record["exits"] + (not record["runs"] or record["state"]["Running"])
        number = start
        while True:
            ended = not until_exit or record["exits"] >= exits
            ended = ended or record["id"] not in self._records
            while number < record["dropped"] + len(record["log"]):
                number = max(number, record["dropped"])
                moment, stream, text = record["log"][number - record["dropped"]]
                number += 1
                yield moment, stream, text.encode("latin-1")
            if ended:
                return
            await self._changed.wait()

    def stdin(self, record: Record) -> asyncio.Queue[bytes] | None:
        if not record["config"]["OpenStdin"]:
            return None
        return self._stdin.setdefault(record["id"], streams.pipe())

    def attach(self, record: Record) -> Listener:
        """What it writes from now on, until its next exit."""
        return self._attached.listen(record["id"])

    def surroundings(
        self,
        record: Record,
        write: Any,
        stdin: asyncio.Queue[bytes] | None,
        tty: bool,
        asked: Mapping[str, Any] = MappingProxyType({}),
        room: Any = programs.at_once,
    ) -> programs.Surroundings:
        """A program's; what is ``asked`` of an exec comes before what the container has."""
        config = record["config"]

        def ignore(names: Sequence[str]) -> None:
            record["ignored"] += [signal_number(name) for name in names]

        return programs.Surroundings(
            self._machine.clock,
            environments.started_with(config, asked.get("Env") or []),
            self._machine.ram["hostname"] if _shares_name(record) else config["Hostname"],
            write,
            stdin,
            tty,
            asked.get("User") or config.get("User") or "root",
            asked.get("WorkingDir") or config.get("WorkingDir") or "/",
            ignore,
            room,
        )

    def _check_name_is_free(self, name: str) -> None:
        for record in self._records.values():
            if record["name"] == name:
                raise HttpError(
                    409,
                    f'Conflict. The container name "/{name}" is already in use by container '
                    f'"{record["id"]}". You have to remove (or rename) that container to be able '
                    "to reuse that name.",
                )

    def _run(self, record: Record) -> None:
        driver = (record["host_config"].get("LogConfig") or {}).get("Type") or DEFAULT_LOG_DRIVER

        def write(stream: int, data: bytes) -> None:
            self._attached.write(record["id"], stream, data)
            record["log"].append([now(), stream, logged(driver, data).decode("latin-1")])
            excess = len(record["log"]) - MAX_LOG_ENTRIES
            if excess > 0:
                del record["log"][:excess]
                record["dropped"] += excess
            self._pulse()

        around = self.surroundings(
            record,
            write,
            self.stdin(record),
            bool(record["config"]["Tty"]),
            room=lambda: self._attached.room(record["id"]),
        )

        async def life() -> None:
            self._exited(record, await programs.run(record["program"], around))

        self._tasks[record["id"]] = asyncio.create_task(life())
        if policies.is_checked(record):
            self._checks[record["id"]] = asyncio.create_task(self._check(record))

    async def _check(self, record: Record) -> None:
        async def run(words: Sequence[str]) -> tuple[int, bytes]:
            said: list[bytes] = []
            if (refused := programs.refusal(words)) is not None:
                return refused[0], refused[1].encode()
            around = self.surroundings(record, lambda _, data: said.append(data), None, False)
            return await programs.run(programs.compile_command(words), around), b"".join(said)

        def changed(status: str) -> None:
            self._emit(record, f"health_status: {status}")

        await policies.check_health(record, run, changed, self._machine.clock)

    def _cancel(self, record: Record) -> None:
        for tasks in (self._tasks, self._checks):
            if (task := tasks.pop(record["id"], None)) is not None:
                task.cancel()

    def _exited(self, record: Record, status: int) -> None:
        self._tasks.pop(record["id"], None)
        if (check := self._checks.pop(record["id"], None)) is not None:
            check.cancel()
        self._stdin.pop(record["id"], None)
        self._attached.end(record["id"])
        started = record["state"]["StartedAt"]
        record["state"] = _state("exited") | {
            "ExitCode": status,
            "StartedAt": started,
            "FinishedAt": now(),
        }
        record["exits"] += 1
        if policies.restarts(record, status):
            # As in Docker: what is about to be started again counts as running.
            record["state"] |= {"Status": "restarting", "Running": True, "Restarting": True}
            record["restarts"] += 1
            self._tasks[record["id"]] = asyncio.create_task(self._again(record))
        self._emit(record, "die", exitCode=str(status))
        if record["host_config"].get("AutoRemove"):
            self.remove(record, force=True)

    async def _again(self, record: Record) -> None:
        await self._machine.clock.sleep_until(
            self._machine.clock.now() + policies.pause_s(record["restarts"])
        )
        config = record["config"]
        self._begin(record, [*_words(config["Entrypoint"]), *_words(config["Cmd"])])

    def _emit(self, record: Record, action: str, **attributes: str) -> None:
        attributes |= {"name": record["name"], "image": record["config"].get("Image", "")}
        self._events.emit("container", action, record["id"], attributes)
        self._pulse()

    def _pulse(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()


def signal_number(name: str) -> int:
    if name.isdecimal():
        return int(name)
    try:
        return signal.Signals["SIG" + name.upper().removeprefix("SIG")]
    except KeyError:
        raise HttpError(400, f"invalid signal: {name}") from None


def _shares_name(record: Record) -> bool:
    return bool(record["host_config"].get("UTSMode") == "host")


def _words(value: Any) -> list[str]:
    if value is None:
        return []
    return [value] if isinstance(value, str) else [str(word) for word in value]


def _state(status: str) -> Record:
    return {
        "Status": status,
        "Running": False,
        "Paused": False,
        "Restarting": False,
        "OOMKilled": False,
        "Dead": False,
        "Pid": 0,
        "ExitCode": 0,
        "Error": "",
        "StartedAt": NEVER,
        "FinishedAt": NEVER,
    }
