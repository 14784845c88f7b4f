"""Processor time of one command, from the start of its process to its end.

``ps`` asks a server that answers at once that there is nothing: what a manager does is not
counted here.
"""

from __future__ import annotations

import asyncio
import os
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from bench.measure import Failed, Samples
from bench.progress import Progress

ROUNDS = 15
PROGRAM = str(Path(sys.executable).with_name("warmboot"))
COMPLETING = {"COMP_WORDS": "warmboot r", "COMP_CWORD": "1", "_WARMBOOT_COMPLETE": "complete_bash"}


async def measure(progress: Progress) -> dict[str, float]:
    """``cli.…``: medians in seconds."""
    return await asyncio.to_thread(_measure, progress)


def _measure(progress: Progress) -> dict[str, float]:
    samples = Samples()
    with _nothing_there() as url:
        commands: Mapping[str, tuple[list[str], Mapping[str, str]]] = {
            "cli.version_cpu_s": (["--version"], {}),
            "cli.complete_cpu_s": ([], COMPLETING),
            "cli.ps_cpu_s": (["ps"], {"WARMBOOT_URL": url}),
        }
        for _ in progress.rounds("one of each", ROUNDS):
            for name, (words, environment) in commands.items():
                samples.add(name, _cpu_s(words, environment))
        return {name: samples.median(name) for name in commands}


def _cpu_s(words: list[str], environment: Mapping[str, str]) -> float:
    silent = [(os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0)]
    process = os.posix_spawn(
        PROGRAM, ["warmboot", *words], {**os.environ, **environment}, file_actions=silent
    )
    _, status, used = os.wait4(process, 0)
    if os.waitstatus_to_exitcode(status) != 0:
        raise Failed(f"warmboot {' '.join(words)} failed")
    return used.ru_utime + used.ru_stime


class _Nothing(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        body = b'{"items":[]}'
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


@contextmanager
def _nothing_there() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), _Nothing) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()
