"""One manager on real QEMU with one runtime snapshot, shared by the tests of a run.

Its host's "own resolver" is a dnsmasq that listens on a loopback address only and knows one name.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import AsyncIterator, Generator, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.e2e.copies import add_shared, shared_snapshot
from tests.support.images import busybox
from tests.support.vms import Site, runtime_image, state_root

from warmboot.docker.tiny_image import image_archive

RESOLVER = "127.0.77.53"
NAME, ANSWER = "warm.test", "203.0.113.77"
TOOLS = "warmboot-e2e/tools:1"
PAGE = b"hello from a container\n"
_APPLETS = (
    "sh",
    "sleep",
    "cat",
    "echo",
    "nproc",
    "httpd",
    "sync",
    "wget",
    "seq",
    "head",
    "test",
    "timeout",
)


@dataclass(frozen=True)
class Archive:
    """A real image as ``docker save`` writes it; in it busybox and a page to serve."""

    path: Path
    content: bytes
    name: str = TOOLS


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            for mark in ("qemu", "root", "slow"):
                item.add_marker(mark)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A failure shows what the managers have said meanwhile."""
    report = yield
    sites = [one for one in getattr(item, "funcargs", {}).values() if isinstance(one, Site)]
    for site in sites if report.failed else ():
        if site.log.exists():
            tail = site.log.read_text(errors="replace").splitlines()[-40:]
            report.sections.append((f"the manager's log of {site.folder.name}", "\n".join(tail)))
    return report


@pytest.fixture(scope="session")
async def image_folder() -> Path:
    return await runtime_image()


@pytest.fixture(scope="session")
async def bare_site(resolver: Path) -> AsyncIterator[Site]:
    """A manager that runs, with nothing in it."""
    async with Site.at(
        state_root() / "e2e",
        prefix="wbe",
        subnet="198.19.208.0/22",
        settings={"MANAGER_RESOLV_CONF": str(resolver)},
    ) as site:
        await site.start()
        yield site


@pytest.fixture(scope="session")
async def site(bare_site: Site, image_folder: Path) -> Site:
    """A manager with a runtime image and a snapshot that is ready, made as a user makes them."""
    await bare_site.cli(
        "runtime", "register", "--no-snapshot", "--name", "default", str(image_folder)
    )
    created = await bare_site.cli("snapshot", "create", "default")
    assert created.out.strip() == str((await shared_snapshot(bare_site)).id)
    return bare_site


@pytest.fixture(scope="session")
async def engine_site(site: Site, image_folder: Path) -> AsyncIterator[Site]:
    """A manager of its own for engines, whose sockets other users reach."""
    sockets = Path(tempfile.mkdtemp(prefix="warmboot-e2e-", dir="/run"))
    sockets.chmod(0o755)
    settings = {"MANAGER_SOCKET": str(sockets / "m.sock")}
    folder = state_root() / "e2e-clients"
    try:
        async with Site.at(
            folder, prefix="wbr", subnet="198.18.116.0/22", settings=settings
        ) as own:
            await own.start()
            await own.cli("runtime", "register", "--no-snapshot", str(image_folder))
            await add_shared(own, site)
            await own.stop()
            await own.start()
            yield own
    finally:
        shutil.rmtree(sockets)


@pytest.fixture(autouse=True)
async def _tidy(request: pytest.FixtureRequest) -> AsyncIterator[None]:
    """Containers that a test has left are removed, so that the next has the machine to itself."""
    yield
    if "site" in request.fixturenames:
        site: Site = request.getfixturevalue("site")
        await site.remove_containers()


@pytest.fixture(scope="session")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Archive:
    links = {f"bin/{applet}": "busybox" for applet in _APPLETS}
    files = {"bin/busybox": busybox().read_bytes(), "www/index.html": PAGE}
    command = ["httpd", "-f", "-p", "8080", "-h", "/www"]
    content = image_archive(TOOLS, files, links, command)
    path = tmp_path_factory.mktemp("archive") / "tools.tar"
    path.write_bytes(content)
    return Archive(path, content)


@pytest.fixture(scope="session")
def resolver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A resolv.conf that names a resolver on loopback, and that resolver."""
    folder = tmp_path_factory.mktemp("resolver")
    program = shutil.which("dnsmasq") or "/usr/sbin/dnsmasq"
    process = subprocess.Popen(
        [
            program,
            "--keep-in-foreground",
            "--conf-file=/dev/null",
            f"--listen-address={RESOLVER}",
            "--bind-interfaces",
            "--no-resolv",
            "--no-hosts",
            "--pid-file",
            f"--address=/{NAME}/{ANSWER}",
        ]
    )
    # The name server for guests reads it as a user of its own.
    home = Path(tempfile.mkdtemp(prefix="warmboot-e2e-", dir="/run"))
    home.chmod(0o755)
    resolv_conf = home / "resolv.conf"
    resolv_conf.write_text(f"nameserver {RESOLVER}\n")
    try:
        yield resolv_conf
    finally:
        process.terminate()
        process.wait(timeout=60)
        shutil.rmtree(home)
        shutil.rmtree(folder)
