#!/usr/bin/env python3
"""Run a command as root of a VM, where nothing is missing that this machine's root may not do.

    scripts/in_a_vm.py .venv/bin/python -m pytest tests/workers/test_worker_postgres.py

The VM has the runtime image's kernel, Docker and CRIU; the Python of this checkout and the
PostgreSQL of this machine lie over them, and so does the checkout. Python and PostgreSQL are packed
once, into the state folder. Needs root, QEMU and e2fsprogs; what the command writes is gone with
the VM.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shlex
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
STATE = Path(os.environ.get("WARMBOOT_STATE", ROOT / ".state"))
VENV = ROOT / ".venv"
CRIU = ROOT / ".state" / "criu"
CHECKOUT = ("src", "tests", "testbed", "pyproject.toml")
POSTGRESQL = (Path("/usr/lib/postgresql"), Path("/usr/share/postgresql"))
LIBRARIES = Path("/usr/lib/x86_64-linux-gnu")
OF_THE_C_LIBRARY = ("libc.", "libm.", "libpthread.", "libdl.", "librt.", "libresolv.", "libgcc_s.")
LEFT_OUT = ("mypy*", "*__mypyc*", "pip", "jsonschema_rs*", "schemathesis*", "ruff*")
LEFT_OUT_OF_PYTHON = ("test", "site-packages", "dist-packages", "config-*", "idlelib", "tkinter")

MEMORY_MIB, CPUS = 2048, 2
DISK_BYTES = 4 << 30
SPARE = 1.3
TIMEOUT_S = 1800.0
COMMAND_LINE = (
    "console=ttyS0 root=/dev/vda ro quiet panic=1 reboot=k ipv6.disable_ipv6=1 apparmor=0 audit=0 "
    "random.trust_cpu=on cryptomgr.notests no_timer_check no5lvl"
)

GET_CRIU = """
import asyncio
from tests.support.dockerd import CRIU_PREFIX, CRIU_WRAPPER
from warmboot.criu.setup.install import install_criu
asyncio.run(install_criu(CRIU_PREFIX, CRIU_WRAPPER, from_distribution=False))
"""
INIT = """#!/usr/bin/busybox sh
# The packed programs lie over the image's, and what is written over both.
b=/usr/bin/busybox
$b mount -t ext4 -o ro /dev/vdb /image
$b mount -t ext4 /dev/vdc /data
$b mkdir -p /data/upper /data/work /data/tmp
$b mount -t overlay -o lowerdir=/:/image,upperdir=/data/upper,workdir=/data/work overlay /both
$b mkdir -p /both/below /both/data
for folder in dev proc sys data; do $b mount --move "/$folder" "/both/$folder"; done
cd /both
$b pivot_root . below
exec $b chroot . /usr/lib/warmboot/inside
"""
INSIDE = """#!/usr/bin/busybox sh
exec </dev/null >/dev/ttyS0 2>&1
b=/usr/bin/busybox
export PATH=/usr/sbin:/usr/bin HOME=/root
$b umount -l /below
$b mkdir -p /dev/pts /dev/shm /dev/mqueue
$b mount -t devpts -o mode=620,ptmxmode=666,gid=5 devpts /dev/pts
$b mount -t tmpfs -o mode=1777,nosuid,nodev shm /dev/shm
$b mount -t mqueue mqueue /dev/mqueue
$b ln -s /proc/self/fd /dev/fd
$b mount -t cgroup2 cgroup2 /sys/fs/cgroup
echo '+cpu +cpuset +memory +pids +io' >/sys/fs/cgroup/cgroup.subtree_control
$b mount -t tmpfs -o mode=755 run /run
$b chmod 1777 /data/tmp
$b mount --bind /data/tmp /tmp
$b ip link set lo up
for library in /opt/libraries/*; do
    [ -e "LIBRARIES/${library##*/}" ] || $b cp "$library" LIBRARIES/
done
$b tar xf /dev/vdd -C /
. /command
echo $? >/dev/ttyS1
$b poweroff -f
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("command", nargs=argparse.REMAINDER, help="with its arguments")
    given = parser.parse_args()
    if not given.command:
        parser.error("no command is given")
    build = [str(VENV / "bin/python"), "-m", "warmboot.images", "build", "--output", str(image())]
    if not (image() / "manifest.json").exists():  # an older one does as well
        subprocess.run(build, check=True, cwd=ROOT, stdout=sys.stderr)
    wrapper = CRIU / "bin" / "criu"
    if wrapper.exists() and f"{CRIU}/" not in wrapper.read_text():
        wrapper.unlink()  # copied from another checkout, it starts the CRIU there
    subprocess.run([VENV / "bin/python", "-c", GET_CRIU], check=True, cwd=ROOT)
    programs = packed()
    with tempfile.TemporaryDirectory(prefix="warmboot-vm-") as folder:
        sys.exit(run(programs, given.command, Path(folder)))


def image() -> Path:
    return STATE / "runtime-image"


def run(programs: Path, command: list[str], folder: Path) -> int:
    """The command's exit code."""
    disk, work, code = folder / "data", folder / "checkout", folder / "code"
    make_disk(disk, DISK_BYTES, "-E", "lazy_itable_init=1")
    pack_checkout(work, command)
    qemu = ["qemu-system-x86_64", "-machine", "q35", "-accel", "tcg,thread=multi", "-cpu", "max"]
    qemu += ["-smp", str(CPUS), "-m", str(MEMORY_MIB), "-nodefaults", "-no-reboot"]
    qemu += ["-display", "none", "-serial", "stdio", "-serial", f"file:{code}"]
    qemu += ["-kernel", str(image() / "kernel"), "-initrd", str(image() / "initrd")]
    qemu += ["-append", COMMAND_LINE]
    for number, path in enumerate((programs, image() / "rootfs.ext4", disk, work)):
        options = "cache=unsafe" if path == disk else "readonly=on"
        qemu += ["-drive", f"id=d{number},if=none,format=raw,file={path},{options}"]
        qemu += ["-device", f"virtio-blk-pci,drive=d{number}"]
    # Should we be killed, so is the VM.
    words = ["setpriv", "--pdeathsig", "KILL", *qemu]
    subprocess.run(words, stdin=subprocess.DEVNULL, check=True, timeout=TIMEOUT_S)
    told = code.read_text().strip()
    if not told:
        raise SystemExit("the VM ended before its command")
    return int(told)


def pack_checkout(target: Path, command: list[str]) -> None:
    with tarfile.open(target, "w") as tar:
        for name in CHECKOUT:
            tar.add(ROOT / name, filter=_without_caches)
        script = target.with_name("command")
        script.write_text(
            # dockerd gives its containerd 15 s to start, which an emulated disk may take alone.
            "cat /usr/bin/containerd /usr/sbin/dockerd >/dev/null\n"
            f"cd {shlex.quote(str(ROOT))}\nexport WARMBOOT_STATE={shlex.quote(str(STATE))}\n"
            f"{shlex.join(command)}\n"
        )
        tar.add(script, "command")


def _without_caches(member: tarfile.TarInfo) -> tarfile.TarInfo | None:
    return None if "__pycache__" in member.name else member


def packed() -> Path:
    """A disk with Python, its packages, and PostgreSQL, as they are now."""
    packages = sorted(path.name for path in site_packages().glob("*.dist-info"))
    versions = sorted(str(path) for path in POSTGRESQL[0].glob("*"))
    python = (VENV / "bin/python").resolve()
    criu = (CRIU / "bin" / "criu").read_text()
    parts = [str(ROOT), str(STATE), str(python), criu, INIT, INSIDE, *packages, *versions]
    key = hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]
    disk = STATE / "vm" / f"{key}.ext4"
    if disk.exists():
        return disk
    print("packing Python and PostgreSQL for the VM", file=sys.stderr)
    shutil.rmtree(disk.parent, ignore_errors=True)
    disk.parent.mkdir(parents=True)
    with tempfile.TemporaryDirectory(dir=disk.parent) as folder:
        tree = Path(folder)
        fill(tree)
        told = subprocess.run(["du", "-sk", tree], check=True, capture_output=True, text=True)
        size_bytes = int(SPARE * int(told.stdout.split()[0])) << 10
        new = disk.with_suffix(".new")
        make_disk(new, size_bytes, "-O", "^has_journal", "-d", str(tree))
    new.rename(disk)
    return disk


def fill(tree: Path) -> None:
    for name in ("dev", "proc", "sys", "image", "data", "both", "opt/libraries", "usr/bin"):
        (tree / name).mkdir(parents=True)
    shutil.copy("/bin/busybox", tree / "usr/bin/busybox")
    for name, text in (("init", INIT), ("inside", INSIDE.replace("LIBRARIES", str(LIBRARIES)))):
        path = tree / "usr/lib/warmboot" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(0o755)
    interpreter = (VENV / "bin/python").resolve()
    standard = interpreter.parents[1] / "lib" / site_packages().parent.name
    _copy(interpreter, tree)
    _copy(standard, tree, *LEFT_OUT_OF_PYTHON)
    _copy(site_packages(), tree, *LEFT_OUT)
    _copy(VENV / "pyvenv.cfg", tree)
    shutil.copytree(VENV / "bin", _inside(tree, VENV / "bin"), symlinks=True)
    _copy(CRIU, tree)
    for folder in POSTGRESQL:
        _copy(folder, tree)
    programs = [interpreter, *standard.glob("lib-dynload/*.so"), *POSTGRESQL[0].glob("*/bin/*")]
    for library in libraries_of(programs):
        if interpreter.parents[1] in library.parents and interpreter.parents[1] != Path("/usr"):
            _copy(library, tree)
        else:
            shutil.copy(library, tree / "opt/libraries" / library.name)
    for link in (VENV / "bin/python3", interpreter.with_name("python3")):
        target = _inside(tree, link)
        if link.is_symlink() and not target.is_symlink():
            target.symlink_to(link.readlink())


def site_packages() -> Path:
    return next(VENV.glob("lib/python3*/site-packages"))


def libraries_of(programs: list[Path]) -> Iterator[Path]:
    """Those that the image may not have; its own C library does for all."""
    told = subprocess.run(["ldd", *programs], check=False, capture_output=True, text=True)
    words = {word for word in told.stdout.split() if word.startswith("/") and ".so" in word}
    for path in sorted(word for word in words if not word.endswith(":")):
        if not Path(path).name.startswith((*OF_THE_C_LIBRARY, "ld-linux")):
            yield Path(path)


def _inside(tree: Path, path: Path) -> Path:
    return tree / str(path.absolute()).lstrip("/")


def _copy(path: Path, tree: Path, *left_out: str) -> None:
    target = _inside(tree, path)
    target.parent.mkdir(parents=True, exist_ok=True)
    if path.is_dir():
        ignored = shutil.ignore_patterns(*left_out) if left_out else None
        shutil.copytree(path, target, symlinks=True, ignore=ignored, copy_function=_link_or_copy)
    else:
        shutil.copy2(path, target)


def _link_or_copy(source: str, target: str) -> str:
    try:
        os.link(source, target, follow_symlinks=False)
    except OSError:
        return str(shutil.copy2(source, target, follow_symlinks=False))
    return target


def make_disk(path: Path, size_bytes: int, *options: str) -> None:
    with path.open("xb") as file:
        file.truncate(size_bytes)
    subprocess.run(["mke2fs", "-q", "-t", "ext4", *options, path], check=True)


if __name__ == "__main__":
    main()
