"""``make demo``; with ``--picture FILE``, what it has shown goes into an SVG as well."""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from pathlib import Path

from rich.console import Console

from demo import boots, engines, workers
from demo.image import write_hello_image
from demo.manager import manager, state_root
from demo.shell import short

PICTURE_COLUMNS = 84


async def _demo(console: Console) -> None:
    state = state_root()
    image = state / "runtime-image"
    console.rule("Warm boot")
    console.print(
        f"A manager of its own, storage in {short(state / 'demo')}; your Docker, network and "
        "files are left alone.\n"
    )
    await _build_image(image)
    async with manager(state / "demo", prefix="wbdemo", subnet="198.19.192.0/20") as running:
        write_hello_image(archive := running.storage / "hello.tar")
        await boots.show(console, running, image, archive)
        console.print()
        console.rule("A Docker of one's own")
        await engines.show(console, running, archive)
    console.print()
    console.rule("Pause and resume")
    await workers.show(console)
    console.print(
        f"Cleaned up. The runtime image and the snapshot stay in {short(state)} for the next "
        "run; `make clean` removes them."
    )


async def _build_image(folder: Path) -> None:
    """Minutes the first time, nothing later; the builder shows its progress."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "warmboot.images", "build", "--output", str(folder))
    )
    if await process.wait() != 0:
        raise SystemExit("the runtime image could not be built; see the message above")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m demo")
    parser.add_argument("--picture", type=Path, metavar="FILE", help="an SVG of what was shown")
    picture: Path | None = parser.parse_args().picture
    if os.geteuid() != 0:
        raise SystemExit("the demo makes network namespaces: run it as root")
    if picture is None:
        asyncio.run(_demo(Console(highlight=False)))
        return
    console = Console(highlight=False, record=True, width=PICTURE_COLUMNS)
    asyncio.run(_demo(console))
    console.save_svg(str(picture), title="make demo")


if __name__ == "__main__":
    main()
