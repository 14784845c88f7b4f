"""Looking into a VM from its own Docker, with all rights: what no user's container may do."""

from __future__ import annotations

import json
import re
import secrets
from datetime import UTC, datetime

from tests.support.vms import TINY, VM_TIMEOUT_S, Site

from warmboot.host.guest.guest_link import GuestLink

UNREACHED = re.compile(r"(wget: can't connect to remote host .*)?")
"""What ``fetch_all`` has of an address that cannot be reached: refused, or no answer in time."""

_EVERYTHING = {
    "Privileged": True,
    "PidMode": "host",
    "NetworkMode": "host",
    "CgroupnsMode": "host",
    "Binds": ["/:/guest"],
}


async def inside(link: GuestLink, script: str) -> str:
    """The output of a shell's ``script``; the guest's root file system is at /guest."""
    container = await link.docker.create(
        f"inside-{secrets.token_hex(4)}",
        {"Image": TINY, "Cmd": ["sh", "-c", script], "HostConfig": _EVERYTHING},
    )
    try:
        await link.docker.start(container)
        await link.docker.wait_stopped(container, timeout_s=VM_TIMEOUT_S)
        chunks = [chunk.data async for chunk in link.docker.output(container)]
        return b"".join(chunks).decode()
    finally:
        await link.docker.remove(container)


_WHO = """\
import json, os
def read(path): return open(path).read().strip()
print(json.dumps({
    "machine_id": read("/etc/machine-id"),
    "hostname": read("/proc/sys/kernel/hostname"),
    "urandom": open("/dev/urandom", "rb").read(16).hex(),
    "getrandom": os.getrandom(16).hex(),
    "uuid": read("/proc/sys/kernel/random/uuid"),
    "token": read("/run/warmboot/token"),
}))
"""


async def who(link: GuestLink) -> dict[str, str]:
    """What makes the guest different from its siblings, as the guest itself sees it."""
    output = await inside(link, f"busybox chroot /guest /usr/bin/python3 -S -c '{_WHO}'")
    found: dict[str, str] = json.loads(output)
    return found


_DRAWN = """\
import os, struct
[pid] = [p for p in os.listdir("/proc") if p.isdigit()
         and open(f"/proc/{p}/comm").read() == "dockerd\\n"]
auxv = open(f"/proc/{pid}/auxv", "rb").read()
words = struct.unpack(f"<{len(auxv) // 8}Q", auxv)
at = dict(zip(words[::2], words[1::2]))[25]
memory = open(f"/proc/{pid}/mem", "rb")
memory.seek(at)
print(at % 4096, memory.read(16).hex())
"""


async def drawn_for_dockerd(link: GuestLink) -> tuple[int, bytes]:
    """What the kernel drew when the guest's ``dockerd`` began (its ``AT_RANDOM``), and where in a
    page it lies: 16 random bytes that are in that process's memory and were never written down."""
    output = await inside(link, f"busybox chroot /guest /usr/bin/python3 -S -c '{_DRAWN}'")
    offset, drawn = output.split()
    return int(offset), bytes.fromhex(drawn)


async def clock(link: GuestLink) -> datetime:
    """The guest's wall clock."""
    text = (await link.docker.info())["SystemTime"]
    match = re.fullmatch(r"(.*?)(\.\d+)?Z", text)
    assert match is not None, text
    fraction = float(match[2] or 0)
    moment = datetime.fromisoformat(match[1]).replace(tzinfo=UTC)
    return datetime.fromtimestamp(moment.timestamp() + fraction, UTC)


async def fetch_all(site: Site, ref: str, addresses: list[str]) -> dict[str, str]:
    """What a container gets from each address (``ip:port``) by HTTP, or why it gets nothing.

    All at once: some are refused, some never answer.
    """
    each = (
        f'(r=$(busybox timeout 15 busybox wget -q -O - http://{one}/ 2>&1); echo "== {one} $r") &'
        for one in addresses
    )
    output = await site.exec(ref, f"{' '.join(each)} wait")
    # What the shell says of those that got no answer stands where it was when their time was over.
    told = output.replace("Terminated", "")
    parts = [part.partition(" ") for part in told.split("== ")[1:]]
    return {address: text.strip() for address, _, text in parts}
