"""Each Debian package in a root of the release that it is for: installed, started, removed.

Nothing there is booted: a service manager is played by a socket, and the unit is checked by
``systemd-analyze``.
"""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from scripts.build_deb import RELEASES, ROOT

pytestmark = [
    pytest.mark.root,
    pytest.mark.slow,
    pytest.mark.random_order(disabled=True),  # one Debian a release, from installed to removed
]

START_TIMEOUT_S = 120.0


@pytest.fixture(scope="module", params=sorted(RELEASES))
def release(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def package(release: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("dist")
    build = (sys.executable, str(ROOT / "scripts/build_deb.py"), release, "--output", str(output))
    subprocess.run(build, check=True, timeout=600)
    (built,) = output.glob("*.deb")
    return built


@pytest.fixture(scope="module")
def debian(release: str, package: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A small Debian in which the package is installed, without what QEMU would bring."""
    root = tmp_path_factory.mktemp("debian") / "root"
    make = ("mmdebstrap", "--quiet", "--mode=root", "--variant=minbase")
    try:
        packages = "--include=python3,systemd"
        subprocess.run((*make, packages, release, str(root)), check=True, timeout=600)
        shutil.copy(package, root / "tmp/warmboot.deb")
        inside(root, "dpkg", "--install", "--force-depends", "/tmp/warmboot.deb")
        yield root
    finally:
        shutil.rmtree(root, ignore_errors=True)


def inside(root: Path, *argv: str) -> str:
    """Standard output and error of a command in ``root``; it must work."""
    ran = subprocess.run(
        ("chroot", str(root), *argv), capture_output=True, text=True, timeout=300, check=False
    )
    assert ran.returncode == 0, ran.stderr
    return ran.stdout + ran.stderr


def test_all_that_it_depends_on_is_in_the_release_or_its_backports(
    release: str, debian: Path
) -> None:
    backports = f"{release}-backports"
    lists = debian / "etc/apt/sources.list"
    text = lists.read_text().splitlines()[0]
    lists.write_text(f"{text}\n{text.replace(release, backports)}\n")
    inside(debian, "apt-get", "-qq", "-o", "APT::Sandbox::User=root", "update")
    simulated = inside(
        debian,
        *("apt-get", "install", "--simulate", "--fix-broken", "--no-install-recommends"),
        *("-t", backports, "/tmp/warmboot.deb"),
    )
    assert "Inst qemu-system-x86 " in simulated
    assert "Remv" not in simulated


def test_the_program_its_manual_and_its_completions_are_there(debian: Path) -> None:
    assert inside(debian, "warmboot", "--version").startswith("warmboot ")
    for path in (
        "usr/share/man/man1/warmboot.1.gz",
        "usr/share/bash-completion/completions/warmboot",
        "usr/share/zsh/vendor-completions/_warmboot",
        "usr/share/fish/vendor_completions.d/warmboot.fish",
    ):
        assert (debian / path).stat().st_size > 100, path
    assert inside(debian, "getent", "group", "warmboot").startswith("warmboot:")


def test_its_unit_is_one_that_systemd_takes(debian: Path) -> None:
    said = inside(debian, "systemd-analyze", "--man=no", "verify", "warmboot.service")
    assert "warmboot" not in said, said


@contextmanager
def service_manager(path: Path) -> Iterator[socket.socket]:
    """A socket that is told what a service manager is told."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as told:
        told.bind(str(path))
        told.settimeout(START_TIMEOUT_S)
        try:
            yield told
        finally:
            path.unlink()


def test_it_starts_says_when_it_is_ready_and_ends(debian: Path) -> None:
    settings = (
        *("MANAGER_HYPERVISOR=simulated", "MANAGER_STORAGE_ROOT=/srv/fc", "MANAGER_PORT=0"),
        *("MANAGER_SOCKET=/run/warmboot/api.sock", "NOTIFY_SOCKET=/run/told"),
    )
    serve = ("chroot", str(debian), "env", *settings, "warmboot", "serve")
    mounted = f'mount -t proc proc {debian}/proc && exec "$@"'
    with service_manager(debian / "run/told") as told:
        manager = subprocess.Popen(("unshare", "--mount", "sh", "-c", mounted, "sh", *serve))
        try:
            assert told.recv(100) == b"READY=1"
            transport = httpx.HTTPTransport(uds=str(debian / "run/warmboot/api.sock"))
            url = "http://warmboot"
            with httpx.Client(transport=transport, base_url=url, timeout=60) as client:
                assert client.get("/v1/containers").json() == {"items": []}
                assert "/boot.js" in client.get("/").text
            manager.terminate()
            assert told.recv(100) == b"STOPPING=1"
            assert manager.wait(START_TIMEOUT_S) == 0
        finally:
            manager.kill()
            manager.wait()


def test_removed_it_leaves_the_storage_and_nothing_of_its_own(debian: Path) -> None:
    (debian / "srv/fc/kept").touch()
    inside(debian, "dpkg", "--purge", "warmboot")
    assert not (debian / "usr/lib/warmboot").exists()
    assert not (debian / "etc/default/warmboot").exists()
    assert (debian / "srv/fc/kept").exists()
