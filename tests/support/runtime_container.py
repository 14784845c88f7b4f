"""A container of the workers' runtime, without an engine: called as an engine's shim calls it."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from uuid import uuid4

from tests.support.absent import ABSENT
from tests.support.dockerd import CRIU_WRAPPER
from tests.support.eventually import until_blocking
from tests.support.images import COUNTER, busybox

from warmboot.criu.binary import SEARCH_PATH
from warmboot.criu.in_progress import Limits, Work
from warmboot.criu.log import CriuLog
from warmboot.criu.runtime.dump import dump
from warmboot.criu.runtime.files import put_back
from warmboot.criu.runtime.folders import CheckpointFolder
from warmboot.criu.runtime.resume import give_order
from warmboot.model.errors import CheckpointError

CRIU_PATH = f"{CRIU_WRAPPER.parent}:{SEARCH_PATH}"
TIMEOUT_S = 60.0
PROGRAMS = ("cat", "dd", "head", "ln", "od", "rm", "sleep", "tee", "true", "wc")


class Container:
    """A container of the runtime, without an engine. ``script`` writes to ``/output``."""

    def __init__(
        self, runtime: Path, folder: Path, script: str = COUNTER, python: str = ""
    ) -> None:
        self.id = f"test-{uuid4().hex}"
        self.runtime = runtime
        self.root = folder / "runc"
        self.bundle = folder / "bundle"
        self.rootfs = self.bundle / "rootfs"
        self.log = folder / "log.json"
        self.pid_file = folder / "pid"
        self.started_at = ""
        self.put_back = False
        self.checkpoint = CheckpointFolder(folder / "kept" / "cp")
        (self.rootfs / "bin").mkdir(parents=True)
        shutil.copy(busybox(), self.rootfs / "bin" / "busybox")
        for name in PROGRAMS:
            (self.rootfs / "bin" / name).symlink_to("busybox")
        _add(self.rootfs, Path("/usr/bin/flock"))
        subprocess.run(["runc", "spec"], cwd=self.bundle, check=True)
        config = json.loads((self.bundle / "config.json").read_text())
        config["process"]["terminal"] = False
        config["process"]["args"] = ["/bin/busybox", "sh", "-c", f"exec >> /output; {script}"]
        if python:
            config["process"]["args"] = ["/usr/bin/python3", "-c", python]
            config["mounts"] += [_bound("/usr"), _bound("/lib"), _bound("/lib64"), _bound(folder)]
        config["root"]["readonly"] = False
        config["linux"]["namespaces"] = [
            one for one in config["linux"]["namespaces"] if one["type"] != "network"
        ]
        (self.bundle / "config.json").write_text(json.dumps(config))

    def __call__(self, *words: str) -> None:
        command: list[str | Path] = [self.runtime, "--root", self.root, "--log", self.log]
        done = subprocess.run(
            [*command, "--log-format", "json", *words, self.id],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={"PATH": CRIU_PATH},
        )
        assert done.returncode == 0, self.log.read_text()

    def start(self) -> None:
        """As the shim does it, when the engine is asked for a start."""
        self.started_at = uuid4().hex
        self("create", "--bundle", str(self.bundle), "--pid-file", str(self.pid_file))
        self("start")

    async def pause(self, *, leave_running: bool = False, layer: Path | None = None) -> None:
        """As the manager does it; the shim cleans up when the process is gone."""
        pid = int(self.pid_file.read_text())
        making = self.checkpoint.begin()
        log = CriuLog()
        try:
            await dump(
                Work(ABSENT, ABSENT, self.id, pid=pid, folders=(making.path,)),
                making,
                log,
                search_path=CRIU_PATH,
                layer=layer or self.rootfs,
                mounts={},
                leave_running=leave_running,
                limits=Limits(TIMEOUT_S),
            )
        except CheckpointError as error:
            raise CheckpointError(error.brief, details="\n".join(log.errors())) from error
        finally:
            log.close()
        if not leave_running:
            making.note_pause(self.started_at)
        self.checkpoint.publish()
        if not leave_running:
            until_blocking(lambda: not Path(f"/proc/{pid}/exe").exists())
            self("delete", "--force")

    async def resume(self) -> None:
        self.put_back = await put_back(self.checkpoint, self.rootfs, self.started_at)
        await give_order(self.id, self.checkpoint, CRIU_PATH)
        self.start()

    def end(self) -> None:
        """As a crash of its process would, and the shim after it."""
        pid = int(self.pid_file.read_text())
        self("delete", "--force")
        until_blocking(lambda: not Path(f"/proc/{pid}/exe").exists())

    def lines(self) -> list[str]:
        output = self.rootfs / "output"
        return output.read_text().splitlines() if output.exists() else []

    def counted(self) -> tuple[str, int]:
        secret, _, number = self.lines()[-1].rpartition(" ") if self.lines() else ("", "", "0")
        return secret, int(number)


def _bound(path: Path | str) -> dict[str, object]:
    """A folder of the host at the same place in the container."""
    return {
        "destination": str(path),
        "type": "bind",
        "source": str(path),
        "options": ["rbind", "ro"],
    }


def _add(rootfs: Path, program: Path) -> None:
    """A program of this machine, with its libraries."""
    told = subprocess.run(["ldd", program], capture_output=True, text=True, check=True).stdout
    for path in (program, *(Path(word) for word in told.split() if word.startswith("/"))):
        (rootfs / path.parent.relative_to("/")).mkdir(parents=True, exist_ok=True)
        shutil.copy(path, rootfs / path.relative_to("/"))
