"""The runtime of workers with real runc and CRIU, called as an engine's shim calls it."""

from __future__ import annotations

import json
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from uuid import uuid4

import pytest
from tests.support.dockerd import CRIU_WRAPPER
from tests.support.images import COUNTER, busybox

from warmboot.criu.binary import SEARCH_PATH
from warmboot.criu.runtime.orders import ROOT, order, runc_of, withdraw
from warmboot.criu.setup.install_runtime import install_runtime

pytestmark = [pytest.mark.docker, pytest.mark.root]

CRIU_PATH = f"{CRIU_WRAPPER.parent}:{SEARCH_PATH}"
TIMEOUT_S = 60.0


class Container:
    """A container of the runtime, without an engine. It counts into a file of its own."""

    def __init__(self, runtime: Path, folder: Path) -> None:
        self.id = f"test-{uuid4().hex}"
        self.runtime = runtime
        self.root = folder / "runc"
        self.bundle = folder / "bundle"
        self.output = self.bundle / "rootfs" / "output"
        self.log = folder / "log.json"
        self.pid_file = folder / "pid"
        programs = self.bundle / "rootfs" / "bin"
        programs.mkdir(parents=True)
        shutil.copy(busybox(), programs / "busybox")
        for name in ("head", "od", "sleep"):
            (programs / name).symlink_to("busybox")
        subprocess.run(["runc", "spec"], cwd=self.bundle, check=True)
        config = json.loads((self.bundle / "config.json").read_text())
        config["process"]["terminal"] = False
        config["process"]["args"] = ["/bin/busybox", "sh", "-c", f"exec >> /output; {COUNTER}"]
        config["root"]["readonly"] = False
        config["linux"]["namespaces"] = [
            one for one in config["linux"]["namespaces"] if one["type"] != "network"
        ]
        (self.bundle / "config.json").write_text(json.dumps(config))

    def __call__(self, *words: str, program: Path | None = None) -> None:
        command = [program or self.runtime, "--root", self.root, "--log", self.log]
        done = subprocess.run(
            [*command, "--log-format", "json", *words, self.id],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={"PATH": CRIU_PATH},
        )
        assert done.returncode == 0, self.log.read_text()

    def create(self) -> None:
        self("create", "--bundle", str(self.bundle), "--pid-file", str(self.pid_file))

    def pause(self, images: Path) -> None:
        """As the manager does it."""
        runc = runc_of(self.id)
        assert runc is not None
        assert runc.root == self.root
        images.mkdir()
        pid = int(self.pid_file.read_text())
        self(
            "checkpoint",
            "--image-path",
            str(images),
            "--work-path",
            str(images),
            program=runc.program,
        )
        until(lambda: not Path(f"/proc/{pid}/exe").exists())
        self("delete", "--force")  # the shim does that when the process is gone

    def lines(self) -> list[str]:
        return self.output.read_text().splitlines() if self.output.exists() else []

    def counted(self) -> tuple[str, int]:
        lines = self.lines()
        secret, _, number = lines[-1].rpartition(" ") if lines else ("", "", "0")
        return secret, int(number)


def until(true: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + TIMEOUT_S
    while not true():
        assert time.monotonic() < deadline_s
        time.sleep(0.02)


@pytest.fixture
async def container(tmp_path: Path) -> Iterator[Container]:
    runtime = tmp_path / "warmboot-runtime"
    await install_runtime(runtime)
    one = Container(runtime, tmp_path)
    yield one
    subprocess.run(["runc", "--root", one.root, "delete", "--force", one.id], check=False)
    withdraw(one.id)
    shutil.rmtree(ROOT / one.id, ignore_errors=True)


def test_a_create_on_an_order_goes_on_from_the_images(container: Container, tmp_path: Path) -> None:
    container.create()
    container("start")
    until(lambda: container.counted()[1] > 3)
    container.pause(tmp_path / "images")
    secret, before = container.counted()
    order(container.id, search_path=CRIU_PATH, images=tmp_path / "images", work=tmp_path)
    container.create()
    container("start")
    until(lambda: container.counted()[1] > before)
    assert container.counted()[0] == secret
    numbers = [line.rpartition(" ")[2] for line in container.lines()]
    assert numbers[before] == str(before + 1)
