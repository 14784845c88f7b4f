"""Runtime images: built from Debian packages, imported, checked and renewed.

A runtime image is a folder::

    kernel         uncompressed ELF (for Firecracker, and for QEMU through PVH) or a bzImage
    initrd         a static busybox and the few modules that it takes to see the disks
    rootfs.ext4    /dev/vda, read-only: Docker, CRIU, the guest agent
    disk.ext4      /dev/vdb, writable: empty and sparse
    manifest.json  what the files are (``RuntimeImageManifest``)
"""

from warmboot.images.build import build_runtime_image
from warmboot.images.files import (
    import_bare_files,
    import_runtime_image,
    load_manifest,
    verify_runtime_image,
)
from warmboot.images.renew import renew_agent

__all__ = [
    "build_runtime_image",
    "import_bare_files",
    "import_runtime_image",
    "load_manifest",
    "renew_agent",
    "verify_runtime_image",
]
