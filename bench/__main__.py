"""``make bench``: every figure in one run, as a table and as ``bench/results/latest.json``."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

from rich.console import Console

from bench import background, boots, command_line, storage, workers
from bench.measure import report

BACKGROUND_ROUNDS = 3
WORKER_ROUNDS = 9
STORAGE_ROUNDS = 9
COMMAND_ROUNDS = 15
RESULTS = Path(__file__).parent / "results" / "latest.json"


async def _bench(console: Console) -> None:
    figures = await boots.measure(console)
    with console.status("boots beside a rebuild, a compression and a collection"):
        figures |= await background.measure(BACKGROUND_ROUNDS)
    with console.status("workers: pause and resume, against the engine alone"):
        figures |= await workers.measure(WORKER_ROUNDS)
    with console.status("storage: boots from compressed snapshots, against plain ones"):
        figures |= await storage.measure(STORAGE_ROUNDS)
    with console.status("the command line: processor time of its start"):
        figures |= await asyncio.to_thread(command_line.measure, COMMAND_ROUNDS)
    report(console, figures, RESULTS)


def main() -> None:
    if os.geteuid() != 0:
        raise SystemExit("the bench makes network namespaces: run it as root")
    asyncio.run(_bench(Console(highlight=False)))


main()
