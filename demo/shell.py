"""Commands as a user would type them: shown, run, and the end of the demo if they fail."""

from __future__ import annotations

import asyncio
import os
import shlex
import sys
from asyncio.subprocess import PIPE
from collections.abc import Mapping
from pathlib import Path

import httpx
from rich.console import Console

PAGE_TIMEOUT_S = 30.0


class Shell:
    """``warmboot`` in it is this one's command line, and speaks to the manager at ``url``."""

    def __init__(self, console: Console, url: str) -> None:
        self.console = console
        own = {k: v for k, v in os.environ.items() if not k.startswith(("WARMBOOT_", "MANAGER_"))}
        self.environment = {**own, "WARMBOOT_URL": url}

    def export(self, variables: Mapping[str, str]) -> None:
        self.environment |= variables

    async def run(self, *words: str) -> None:
        """What it prints goes to the terminal, and not into a picture."""
        self.show(shlex.join(words))
        await self._run(words)

    async def output(self, *words: str) -> None:
        """What it prints is shown when it has ended, in a picture, too."""
        self.show(shlex.join(words))
        self.console.print(await self.said(*words), markup=False)

    async def said(self, *words: str) -> str:
        """What it prints; nothing is shown."""
        return (await self._run(words, PIPE)).strip()

    async def has(self, *words: str) -> bool:
        """Whether this can be run here."""
        nothing = asyncio.subprocess.DEVNULL
        try:
            process = await asyncio.create_subprocess_exec(
                *words, env=self.environment, stdout=nothing, stderr=nothing
            )
        except FileNotFoundError:
            return False
        return await process.wait() == 0

    async def curl(self, url: str) -> None:
        self.show(f"curl {url}")
        async with httpx.AsyncClient(trust_env=False, timeout=PAGE_TIMEOUT_S) as http:
            answer = await http.get(url)
        answer.raise_for_status()
        self.console.print(answer.text.strip(), markup=False)

    def show(self, command: str) -> None:
        self.console.print(f"$ {command}", style="bold", markup=False)

    async def _run(self, words: tuple[str, ...], output: int | None = None) -> str:
        ours = (sys.executable, "-m", "warmboot.cli") if words[0] == "warmboot" else words[:1]
        process = await asyncio.create_subprocess_exec(
            *ours, *words[1:], env=self.environment, stdout=output
        )
        said, _ = await process.communicate()
        if process.returncode != 0:
            raise SystemExit(f"`{shlex.join(words)}` failed; see the message above")
        return (said or b"").decode()


def short(path: Path) -> str:
    """As one types it in the folder where the demo runs."""
    return os.path.relpath(path)
