"""``warmboot top``: containers, boots, snapshots and workers, live; or one's processes.

    events ──▶ wake ─┐
    interval ────────┼─▶ look ─▶ show         until q or ctrl-c
    keys ────────────┘

Where there is no terminal it prints one look and ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import termios
import tty
from collections.abc import AsyncIterator, Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from warmboot.cli.commands.files import processes
from warmboot.cli.drive import connect, drive
from warmboot.cli.terminal.output import console, print_json
from warmboot.cli.terminal.top_view import View, load_between, shown
from warmboot.model.errors import Unavailable

if TYPE_CHECKING:
    from warmboot.client import Client
    from warmboot.client.usage import Usage

LOAD_S = 1.0
"""Processor time is counted in hundredths of a second: over less, a load would be a guess."""
QUICKEST_S = 0.25


def top(
    words: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[CONTAINER [PS OPTIONS…]]",
            help="show the processes of a container instead",
            show_default=False,
        ),
    ] = None,
    interval: Annotated[
        float, typer.Option("--interval", "-i", min=0.2, max=3600, help="seconds between refreshes")
    ] = 2.0,
    window: Annotated[
        float, typer.Option("--window", "-w", min=1, max=1440, help="minutes of boots to count")
    ] = 5.0,
    once: Annotated[bool, typer.Option("--once", help="print once and exit")] = False,
    json_: Annotated[bool, typer.Option("--json", help="print JSON once and exit")] = False,
) -> None:
    """Show what is running and what it uses, live (q quits), or the processes of a container."""
    if words:
        processes(words[0], words[1:])
        return
    looks = _Looks(window * 60)
    if json_:
        print_json(drive(_single(looks)).as_json())
    elif once or not sys.stdout.isatty():
        out = console()
        out.print(shown(drive(_single(looks)), columns=out.size.width))
    else:
        drive(_live(looks, interval))


class _Looks:
    """Looks at the manager; a VM's load comes from this look and an earlier one."""

    def __init__(self, window_s: float) -> None:
        self._window_s = window_s
        self._base: Usage | None = None
        self._load: dict[str, float] = {}

    async def __call__(self, client: Client) -> View:
        async with asyncio.TaskGroup() as group:
            info = group.create_task(client.system.info())
            usage = group.create_task(client.system.usage(self._window_s))
            containers = group.create_task(client.containers.list())
            snapshots = group.create_task(client.snapshots.list())
            workers = group.create_task(client.workers.list())
        self._measure(usage.result())
        return View(
            info=info.result(),
            usage=usage.result(),
            containers=containers.result(),
            snapshots=snapshots.result(),
            workers=workers.result(),
            load=dict(self._load),
        )

    def _measure(self, now: Usage) -> None:
        if self._base is None:
            self._base = now
        elif (now.at - self._base.at).total_seconds() >= 0.9 * LOAD_S:
            self._load = load_between(self._base, now)
            self._base = now


async def _single(looks: _Looks) -> View:
    """Two looks, since a load is a difference."""
    async with connect() as client:
        await _look(looks, client)
        await asyncio.sleep(LOAD_S)
        return await _look(looks, client)


async def _look(looks: _Looks, client: Client) -> View:
    """The first of several errors is the one to be told."""
    try:
        return await looks(client)
    except* Exception as errors:  # noqa: BLE001 - raised again, unwrapped
        first: BaseException = errors
        while isinstance(first, BaseExceptionGroup):
            first = first.exceptions[0]
        raise first from None


async def _live(looks: _Looks, interval_s: float) -> None:
    from rich.live import Live

    screen = console()
    async with connect() as client:
        view = await _look(looks, client)
        with _quick_keys() as keys, Live(console=screen, screen=True, auto_refresh=False) as live:
            async with _woken(client, keys) as wake:
                problem = ""
                while not keys.is_set():
                    size = screen.size
                    live.update(shown(view, size.height, size.width, problem), refresh=True)
                    await _pause(wake, interval_s)
                    try:
                        view, problem = await _look(looks, client), ""
                    except Unavailable as error:
                        problem = f"{error.brief}: what is shown is old"


async def _pause(wake: asyncio.Event, interval_s: float) -> None:
    """Until something happens, but not for longer than the interval; a storm is waited out."""
    quickest_s = min(QUICKEST_S, interval_s)
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(interval_s):
            await wake.wait()
            await asyncio.sleep(quickest_s)
    wake.clear()


@contextlib.asynccontextmanager
async def _woken(client: Client, keys: asyncio.Event) -> AsyncIterator[asyncio.Event]:
    """Set by every event of the manager and by the key that ends it all."""
    wake = asyncio.Event()

    async def by_events() -> None:
        while True:
            with contextlib.suppress(Unavailable):
                async with client.events.follow() as coming:
                    async for _ in coming:
                        wake.set()
            await asyncio.sleep(QUICKEST_S)  # the manager is away; the interval goes on meanwhile

    async def by_key() -> None:
        await keys.wait()
        wake.set()

    tasks = [asyncio.create_task(by_events()), asyncio.create_task(by_key())]
    try:
        yield wake
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@contextlib.contextmanager
def _quick_keys() -> Iterator[asyncio.Event]:
    """An event that q sets; keys come at once and are not echoed. Without a keyboard, ctrl-c."""
    pressed = asyncio.Event()
    if not sys.stdin.isatty():
        yield pressed
        return
    fd, loop = sys.stdin.fileno(), asyncio.get_running_loop()
    before = termios.tcgetattr(fd)

    def read() -> None:
        key = os.read(fd, 1)
        if not key or key in b"qQ":
            pressed.set()

    tty.setcbreak(fd, termios.TCSANOW)
    loop.add_reader(fd, read)
    try:
        yield pressed
    finally:
        loop.remove_reader(fd)
        termios.tcsetattr(fd, termios.TCSADRAIN, before)
