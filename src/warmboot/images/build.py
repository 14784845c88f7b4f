"""Builds a runtime image from Debian packages.

    packages ─▶ tree ─▶ slim ─▶ overlay, agent, modules, warm-up image ─▶ ext4
                  └──▶ kernel, initrd                              │
                                  everything in a temporary folder ┴─▶ synced ─▶ renamed

A crash at any point leaves the old image or none; a left-over temporary folder is removed by the
next build into the same place.
"""

from __future__ import annotations

import asyncio
import hashlib
import shutil
from collections.abc import Callable
from pathlib import Path

from warmboot.guest import AGENT_VERSION
from warmboot.images import debian, kernel
from warmboot.images.files import DEFAULT_CMDLINE, describe, write_manifest
from warmboot.images.filesystems import make_empty_disk, make_root_file_system
from warmboot.images.warm_up_image import build_warm_up_image
from warmboot.model.errors import HostError
from warmboot.model.runtime_image import RuntimeImageManifest
from warmboot.system.programs import find_program, run_program
from warmboot.system.staging import place, staging

Progress = Callable[[str, float], None]

_HERE = Path(__file__).parent
_GUEST = _HERE.parent / "guest"
_LIB = "usr/lib/warmboot"
_PROGRAMS = ("init", "run-agent", "run-containerd", "run-dockerd", "crun", "set-network-key")
_EMPTY_FOLDERS = ("dev", "proc", "run", "sys", "tmp", "root", "var/lib")


async def build_runtime_image(dest: Path, progress: Progress) -> RuntimeImageManifest:
    """Build an image into the folder ``dest``, replacing one that is there.

    ``progress`` gets what is being done and which part (0 to 1) is behind us. Needs root,
    mmdebstrap and mke2fs: ``NotSupported`` says which is missing. A program that fails raises
    ``HostError`` with its last lines.
    """
    for tool in ("mmdebstrap", "mke2fs", "dpkg-query"):
        find_program(tool)
    async with staging(dest) as folder:
        work, image = folder / "work", folder / "image"
        work.mkdir()
        image.mkdir()
        root = work / "root"
        kernel_tree = await debian.build_tree(root, lambda what, part: progress(what, 0.65 * part))
        progress("kernel and initrd", 0.65)
        labels = {
            "recipe": recipe(),
            "debian": debian.SUITE,
            **{f"package.{k}": v for k, v in (await debian.package_versions(root)).items()},
        }
        labels["kernel"] = await _kernel_files(kernel_tree, root, image)
        progress("guest agent and configuration", 0.7)
        await debian.slim(root)
        await asyncio.to_thread(_furnish, root)
        await _compile_python(root)
        progress("root file system", 0.75)
        await make_root_file_system(root, image / "rootfs.ext4")
        progress("writable disk", 0.85)
        await make_empty_disk(image / "disk.ext4")
        progress("checksums", 0.88)
        manifest = await describe(image, DEFAULT_CMDLINE, AGENT_VERSION, labels)
        write_manifest(image, manifest)
        await place(image, dest)
        progress("done", 1.0)
        return manifest


def recipe() -> str:
    """A digest of everything of ours that goes into an image: another one means a new image."""
    digest = hashlib.sha256()
    for folder in (_HERE, _GUEST):
        for path in sorted(p for p in folder.rglob("*") if p.is_file() and p.suffix != ".pyc"):
            digest.update(f"{path.relative_to(folder.parent)}\0".encode() + path.read_bytes())
    return digest.hexdigest()


async def _kernel_files(kernel_tree: Path, root: Path, image: Path) -> str:
    """``kernel`` and ``initrd`` of the image; the modules go into the root. Returns the release."""

    def unpack() -> str:
        found = sorted((kernel_tree / "boot").glob("vmlinuz-*"))
        if not found:
            raise HostError("the kernel package has no kernel")
        (image / "kernel").write_bytes(kernel.extract_vmlinux(found[0].read_bytes()))
        release = kernel.adopt_modules(kernel_tree, root)
        shutil.rmtree(kernel_tree.parent)
        return release

    def assemble() -> None:
        init = (_HERE / "overlay/initrd-init").read_bytes()
        busybox = root / "usr/bin/busybox"
        (image / "initrd").write_bytes(kernel.build_initrd(modules, busybox, init))
        kernel.prune_modules(modules)

    release = await asyncio.to_thread(unpack)
    modules = root / "usr/lib/modules" / release
    await run_program("chroot", root, "/usr/sbin/depmod", release)
    await asyncio.to_thread(assemble)
    await run_program("chroot", root, "/usr/sbin/depmod", release)
    return release


def _furnish(root: Path) -> None:
    """Our own files: configuration, the programs that init starts, the agent, the warm-up image."""
    for top in ("etc", "usr"):
        shutil.copytree(_HERE / "overlay" / top, root / top, symlinks=True, dirs_exist_ok=True)
    for name in _PROGRAMS:
        (root / _LIB / name).chmod(0o755)
    (root / _LIB / "modules").write_text("\n".join(kernel.BOOT_MODULES) + "\n")
    shutil.copytree(
        _GUEST, root / _LIB / "guest", ignore=shutil.ignore_patterns("__pycache__", "*.pyc")
    )
    share = root / "usr/share/warmboot"
    share.mkdir(parents=True, exist_ok=True)
    (share / "probe.tar").write_bytes(build_warm_up_image(root / "usr/bin/busybox"))
    for program in ("iptables", "iptables-save", "iptables-restore"):
        # The older back end: one process and one system call a change, where the newer one
        # loads and consults several more modules.
        _relink(root / "usr/sbin" / program, "xtables-legacy-multi")
    _relink(root / "etc/mtab", "../proc/self/mounts")
    for name in _EMPTY_FOLDERS:
        path = root / name
        if path.is_dir():
            shutil.rmtree(path)
        path.mkdir(parents=True, mode=0o755)


async def _compile_python(root: Path) -> None:
    """With the image's own Python, for the root is read-only when it runs."""
    await run_program(
        "chroot", root, "/usr/bin/python3", "-m", "compileall", "-q",
        "--invalidation-mode", "unchecked-hash",
        *(f"/{path.relative_to(root)}" for path in (root / "usr/lib").glob("python3.*")),
        f"/{_LIB}/guest",
    )  # fmt: skip


def _relink(path: Path, target: str) -> None:
    if path.exists() or path.is_symlink():
        path.unlink()
    path.symlink_to(target)
