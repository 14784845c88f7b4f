"""What an engine is, as its host, its Docker and its guest have it."""

from __future__ import annotations

import json

from tests.e2e.conftest import TOOLS
from tests.e2e.docker_engines import Engine
from tests.support.identities import Identity

KEEPER = "memory"
"""A container that sees the whole guest, and has a secret that it says again and again."""

_SAYING = "read x </proc/sys/kernel/random/uuid; while echo $x; do sleep 1; done"
_GUEST = "/proc/1/root"
_LOOKS = {
    "machine id": f"cat {_GUEST}/etc/machine-id",
    "host name": f"cat {_GUEST}/etc/hostname",
    "token": f"cat {_GUEST}/run/warmboot/token",
    "uuid": "cat /proc/sys/kernel/random/uuid",
    "random bytes": "head -c 16 /dev/urandom | busybox od -An -tx1",
    "written": f"cat {_GUEST}/etc/hostname >>/written; sync; cat /written",
    "mac": f"cat {_GUEST}/sys/class/net/eth0/address",
    "addresses": "busybox grep -o '|-- [0-9.]*' /proc/1/net/fib_trie | busybox sort -u",
}
_SHARED = ("mac", "addresses")
"""Each VM has a network of its own, and in it the address that all have."""


async def run_keeper(engine: Engine) -> None:
    options = ("--privileged", "--pid", "host", "--name", KEEPER)
    await engine.docker("run", "-d", *options, TOOLS, "sh", "-c", _SAYING)


async def identity_of(engine: Engine) -> Identity:
    """Asked once: it writes its name to its disk."""
    described = await engine.described()
    info = json.loads((await engine.docker("info", "-f", "{{json .}}")).out)
    listing = ("ps", "-a", "--no-trunc", "--format", "{{.ID}} {{.Names}} {{.State}}")
    containers = (await engine.docker(*listing)).out
    script = "; ".join(f"echo @; {look}" for look in _LOOKS.values())
    _, *parts = (await engine.docker("exec", KEEPER, "sh", "-c", script)).out.split("@\n")
    seen = {key: part.strip() for key, part in zip(_LOOKS, parts, strict=True)}
    shared = {key: seen.pop(key) for key in _SHARED}
    own = seen | {key: str(described[key]) for key in ("id", "name", "address", "socket", "vm_id")}
    own |= {"Docker's id": info["ID"], "Docker's name": info["Name"]}
    names = ("host name", "Docker's name", "written")
    assert {key: own[key] for key in names} == dict.fromkeys(names, engine.name)
    assert f"warmboot.engine={engine.name}" in info["Labels"]
    shared |= {"containers": containers, "images": str(info["Images"])}
    return Identity(own, shared | {"shape": str(described["shape"])})
