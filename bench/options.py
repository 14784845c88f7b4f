"""What Docker's options cost: ``warmboot run`` with some of them, and without, in turns.

From the start of the command line to its end, the container's program being ``true``. The time in
which the image is brought into the guest is taken out of both: it is the same, and hides the rest.
"""

from __future__ import annotations

import asyncio
import os
import time

from demo.image import NAME, write_hello_image

from bench.command_line import PROGRAM
from bench.measure import Failed, Samples
from bench.place import BOOT_TIMEOUT_S, Place, build_image, place
from bench.progress import Progress
from warmboot.client.results import Container

ROUNDS = 9
OPTIONS = ("--init", "--read-only", "--tmpfs", "/tmp")
_WAYS = {"run.plain_s": (), "run.options_s": OPTIONS}
CONTAINER = "bench-run"


async def measure(progress: Progress) -> dict[str, float]:
    """``run.…``"""
    samples = Samples()
    async with place(progress, await build_image(progress), pool="0") as at:
        await at.prepare()
        write_hello_image(at.manager.storage / "hello.tar")
        progress.tell("everything is touched once")
        for words in _WAYS.values():
            await _run_s(at, words)
        for number in progress.rounds("runs", ROUNDS):
            ways = [*_WAYS.items()]
            for name, words in ways if number % 2 == 0 else reversed(ways):
                samples.add(name, await _run_s(at, words))
    return {
        "run.options_over_plain": samples.ratio("run.options_s", "run.plain_s"),
        **{name: samples.median(name) for name in _WAYS},
        **{f"{name}.runs": samples.runs(name) for name in _WAYS},
    }


async def _run_s(at: Place, options: tuple[str, ...]) -> float:
    """One run from the command to its exit, and whether it was what it should be."""
    archive = str(at.manager.storage / "hello.tar")
    words = ("run", "--name", CONTAINER, "--archive", archive, *options, NAME, "/bin/busybox")
    began = time.perf_counter()
    try:
        process = await asyncio.create_subprocess_exec(
            *(PROGRAM, *words, "true"),
            env={**os.environ, "WARMBOOT_URL": at.manager.url},
            stdin=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
        )
        async with asyncio.timeout(BOOT_TIMEOUT_S):
            _, err = await process.communicate()
        took = time.perf_counter() - began
        if process.returncode != 0:
            raise Failed(f"warmboot run {' '.join(options)} failed: {err.decode().strip()}")
        container = await at.client.containers.get(CONTAINER)
        _check(container, options)
    finally:
        await at.client.containers.delete(CONTAINER, force=True)
    return took - sum(stage.duration_s for stage in container.stages if stage.name == "load")


def _check(container: Container, options: tuple[str, ...]) -> None:
    if container.boot_method != "warm":
        raise Failed(f"not warm but {container.boot_method}: {container.fallback_details}")
    given = container.raw["options"]
    if (given["init"], given["read_only"], bool(given["tmpfs"])) != (bool(options),) * 3:
        raise Failed(f"a container that was run with {options} has {given}")
