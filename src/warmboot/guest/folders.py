"""Folders of the host: mounted below ``/run/warmboot/folders``, through NFS, from the gateway.

A mount is there until the guest's end, and in every clone: who serves it there serves the same
address. While nobody does, programs wait, and do not fail. Locks are the guest's own.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from .system import GATEWAY, System
from .wire import HttpError

PLACE = "/run/warmboot/folders"
PORT = 917
OPTIONS = (
    "vers=3,proto=tcp,mountproto=tcp,hard,nolock,noacl,nosuid,nodev,"
    "actimeo=1,rsize=1048576,wsize=1048576,timeo=600,retrans=2"
)
"""What changes on the host is seen here within the second for which attributes are kept."""

_ID = re.compile(r"[0-9a-f]{16}")
_MOUNT = "/usr/bin/mount"


class Folders:
    """``mount`` them; those that are mounted already stay as they are."""

    def __init__(self, system: System) -> None:
        self._system = system

    def mount(self, document: Mapping[str, Any]) -> None:
        """``folders``: their ids. ``HttpError`` 500, also in an image that cannot have any."""
        ids = document.get("folders")
        if type(ids) is not list or not all(type(i) is str and _ID.fullmatch(i) for i in ids):
            raise HttpError(400, "folders must be a list of ids, each of 16 hex digits")
        try:
            mounted = self._mounted()
            missing = [one for one in ids if f"{PLACE}/{one}" not in mounted]
            if missing:
                self._mount_all(missing)
        except OSError as error:
            raise HttpError(500, f"the host's folders are not mounted: {error}") from error

    def _mount_all(self, ids: list[str]) -> None:
        if self._system.run(["/usr/sbin/modprobe", "-q", "nfsv3"]) != 0:
            raise HttpError(500, "the kernel of this runtime image has no NFS client")
        # Packets of containers have less when they leave: the host lets only the guest's own pass.
        self._system.write_file("/proc/sys/net/ipv4/ip_default_ttl", "255")
        self._run("-o", "remount,rw", PLACE)
        try:
            for one in ids:
                self._system.run(["/usr/bin/mkdir", "-p", f"{PLACE}/{one}"])
                source = f"{GATEWAY}:/{one}"
                options = f"{OPTIONS},addr={GATEWAY},port={PORT},mountport={PORT}"
                self._run("-i", "-t", "nfs", "-o", options, source, f"{PLACE}/{one}")
        finally:
            self._run("-o", "remount,ro", PLACE)

    def _run(self, *arguments: str) -> None:
        if (code := self._system.run([_MOUNT, *arguments])) != 0:
            raise OSError(f"mount {' '.join(arguments)} failed with exit code {code}")

    def _mounted(self) -> set[str]:
        lines = self._system.read_file("/proc/self/mounts").splitlines()
        return {line.split(" ")[1] for line in lines if " nfs " in line}
