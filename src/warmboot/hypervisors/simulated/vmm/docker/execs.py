"""Execs of the simulated Docker: commands run beside a container's own."""

from __future__ import annotations

import asyncio
import secrets
from typing import Any

from warmboot.hypervisors.simulated.vmm.docker import programs, streams
from warmboot.hypervisors.simulated.vmm.docker.containers import Containers
from warmboot.hypervisors.simulated.vmm.docker.http import Answer, HttpError, Response, Upgrade
from warmboot.hypervisors.simulated.vmm.machine import Machine

Record = dict[str, Any]


class Execs:
    def __init__(self, machine: Machine, containers: Containers) -> None:
        self._machine = machine
        self._containers = containers
        self._records: dict[str, Record] = machine.ram["execs"]
        self._detached: set[asyncio.Task[None]] = set()
        for record in self._records.values():
            if record["running"]:  # restored: its client, and so its input and output, are gone
                record |= {"running": False, "exit_code": 137}

    def create(self, container: str, body: Record) -> Record:
        record = self._containers.find(container)
        if not record["state"]["Running"]:
            raise HttpError(409, f"container {record['id']} is not running")
        if not body.get("Cmd"):
            raise HttpError(400, "No exec command specified")
        exec_id = secrets.token_hex(32)
        self._records[exec_id] = {
            "id": exec_id,
            "container": record["id"],
            "config": body,
            "running": False,
            "exit_code": None,
        }
        return self._records[exec_id]

    def find(self, exec_id: str) -> Record:
        if exec_id not in self._records:
            raise HttpError(404, f"No such exec instance: {exec_id}")
        return self._records[exec_id]

    def inspect(self, record: Record) -> Record:
        command = record["config"]["Cmd"]
        return {
            "ID": record["id"],
            "Running": record["running"],
            "ExitCode": record["exit_code"],
            "ProcessConfig": {
                "tty": bool(record["config"].get("Tty")),
                "entrypoint": command[0],
                "arguments": command[1:],
                "privileged": False,
            },
            "OpenStdin": bool(record["config"].get("AttachStdin")),
            "OpenStdout": bool(record["config"].get("AttachStdout")),
            "OpenStderr": bool(record["config"].get("AttachStderr")),
            "ContainerID": record["container"],
            "Pid": 1001 if record["running"] else 0,
        }

    def start(self, record: Record, detach: bool) -> Answer:
        if record["running"] or record["exit_code"] is not None:
            raise HttpError(409, f"exec {record['id']} has already run")
        if detach:
            task = asyncio.create_task(self._run(record, lambda stream, data: None, None))
            self._detached.add(task)
            task.add_done_callback(self._detached.discard)
            return Response()

        async def converse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            tty = bool(record["config"].get("Tty"))
            stdin: asyncio.Queue[bytes] | None = (
                streams.pipe() if record["config"].get("AttachStdin") else None
            )

            def write(stream: int, data: bytes) -> None:
                writer.write(streams.frame(stream, data, tty))

            async with streams.feeding(reader, stdin, self._machine.clock, tty):
                await self._run(record, write, stdin, writer.drain)

        return Upgrade(converse)

    async def _run(
        self,
        record: Record,
        write: Any,
        stdin: asyncio.Queue[bytes] | None,
        room: Any = programs.at_once,
    ) -> None:
        container = self._containers.find(record["container"])
        around = self._containers.surroundings(
            container, write, stdin, bool(record["config"].get("Tty")), record["config"], room
        )
        if (refused := programs.refusal(record["config"]["Cmd"])) is not None:
            # With crun's words Docker does not tell what is missing from what is not executable.
            record["exit_code"] = 126
            write(1, f"OCI runtime exec failed: {refused[1]}: unknown\r\n".encode())
            return
        program = programs.compile_command(record["config"]["Cmd"])
        record["running"] = True
        command = asyncio.create_task(programs.run(program, around))
        ended = asyncio.create_task(self._containers.wait_exit(container, "not-running"))
        try:
            await asyncio.wait({command, ended}, return_when=asyncio.FIRST_COMPLETED)
            record["exit_code"] = command.result() if command.done() else 137
        finally:
            record["running"] = False
            command.cancel()
            ended.cancel()
