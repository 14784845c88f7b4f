"""Progress of an operation on stderr, if that is a terminal: stages taken from events."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from typing import TYPE_CHECKING, Any

from warmboot.cli.terminal.output import console, size
from warmboot.model.errors import WarmbootError

if TYPE_CHECKING:
    from warmboot.client import Client
    from warmboot.client.results import Event

Show = Callable[[str], None]

_PHRASES = {
    "snapshot": "waiting for the runtime snapshot",
    "restore": "restoring a VM from its snapshot",
    "boot": "booting a VM (cold)",
    "identity": "giving the VM its own identity",
    "docker": "waiting for Docker in the VM",
    "load": "loading the image archive",
    "pull": "pulling the image",
    "create": "creating the container",
    "start": "starting the container",
    "folders": "mounting the host's folders",
    "grow-disk": "growing its disk",
    "hand-over": "preparing its Docker",
    "freeze": "freezing the VM",
    "publish": "writing the snapshot",
    "warm-up": "warming up Docker",
    "walk": "starting a container of the image once",
    "canary": "trying the new snapshot",
}


@contextlib.contextmanager
def status(text: str) -> Iterator[Show]:
    """A spinner with a line of text; silent when stderr is no terminal."""
    if not sys.stderr.isatty():
        yield lambda _: None
        return
    from rich.text import Text

    with console(stderr=True).status(Text(text)) as shown:
        yield lambda new: shown.update(Text(new))


def phrase(event: Event) -> str | None:
    """An event as a line of progress; ``None`` when it tells nothing of that kind."""
    data = event.data
    what = event.kind.partition(".")[2]
    if what == "stage":
        stage = str(data.get("stage", ""))
        text = _PHRASES.get(stage, stage)
        if stage == "boot" and data.get("reason") not in (None, "requested"):
            text += f": {str(data['reason']).replace('_', ' ')}"
        return text + " …"
    if what == "pull":
        return f"pulling the image … {_amount(data)}".rstrip()
    if what == "stalled":
        return "the disk is full: waiting for room …"
    return None


def _amount(data: Any) -> str:
    done, total = data.get("bytes"), data.get("total_bytes")
    if done is None:
        return ""
    return f"{size(done)} of {size(total)}" if total else size(done)


@contextlib.asynccontextmanager
async def stages_shown(client: Client, show: Show) -> AsyncIterator[Callable[[str], None]]:
    """Show the stages of one thing while the context lasts; call the value with its id.

    Progress is a courtesy: when events cannot be had, the work goes on without.
    """
    subject: list[str] = []
    latest: dict[str, str] = {}  # what was told before the id was known
    standing = asyncio.Event()

    async def follow() -> None:
        try:
            async with client.events.follow() as events:
                standing.set()
                async for event in events:
                    if text := phrase(event):
                        latest[event.subject_id] = text
                        if event.subject_id in subject:
                            show(text)
        except WarmbootError:
            return
        finally:
            standing.set()

    def watch(subject_id: str) -> None:
        subject.append(subject_id)
        if subject_id in latest:
            show(latest[subject_id])

    task = asyncio.create_task(follow())
    await standing.wait()
    try:
        yield watch
    finally:
        task.cancel()
        await asyncio.wait({task})
