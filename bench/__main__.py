"""``make bench``: every figure in one run, as a table and as ``bench/results/latest.json``."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

from rich.console import Console

from bench import boots
from bench.measure import report

RESULTS = Path(__file__).parent / "results" / "latest.json"


async def _bench(console: Console) -> None:
    figures = await boots.measure(console)
    report(console, figures, RESULTS)


def main() -> None:
    if os.geteuid() != 0:
        raise SystemExit("the bench makes network namespaces: run it as root")
    asyncio.run(_bench(Console(highlight=False)))


main()
