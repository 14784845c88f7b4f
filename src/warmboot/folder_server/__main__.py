"""``python -m warmboot.folder_server FOLDER``: serve what standard input says, as JSON, at
descriptor 3, until process ``vmm`` (a pid and its pidfd, descriptor 4) has ended.

``FOLDER`` is the VM's: those who look at the list of processes see whose server we are.
"""

from __future__ import annotations

import ctypes
import json
import logging
import os
import select
import socket
import sys
import threading
from pathlib import Path

from warmboot.folder_server import mount, nfs
from warmboot.folder_server.changes import Changes
from warmboot.folder_server.confinement import Identity, Share, confine
from warmboot.folder_server.mount import Mount
from warmboot.folder_server.nfs import Nfs, program_of
from warmboot.folder_server.rpc import Server
from warmboot.folder_server.tree import Tree

_LISTENER, _VMM = 3, 4
_SWEEP_MS = 2000
_STACK_BYTES = 1 << 20
_CLONE_NEWNET = 0x40000000


def main() -> None:
    logging.basicConfig(format="%(asctime)s %(message)s", level=logging.INFO)
    said = json.load(sys.stdin)
    shares = [Share.of(one) for one in said["folders"]]
    identity = Identity(said["uid"], said["gid"], tuple(said["groups"]))
    _enter(said["namespace"])
    threading.stack_size(_STACK_BYTES)
    refused = confine(shares, identity, Path(sys.argv[1]))
    tree = Tree({share.id: f"/{share.id}" for share in shares if share.id not in refused})
    reading = Nfs(tree)
    programs = {
        mount.PROGRAM: Mount(tree).program,
        nfs.PROGRAM: program_of(reading.procedures(), Changes(reading).procedures()),
    }
    with socket.socket(fileno=_LISTENER) as listener:
        server = Server(programs)
        threading.Thread(target=_serve, args=(server, listener), daemon=True).start()
        sys.stdout.write(json.dumps({"refused": refused}) + "\n")
        sys.stdout.flush()
        _until_ended(tree)
    os._exit(0)  # what is under way is nobody's any more


def _serve(server: Server, listener: socket.socket) -> None:
    """Without it, this process is of no use: who watches it starts another one."""
    try:
        server.serve(listener)
    except Exception:  # whatever it was, there is no connection more
        logging.exception("no connections are taken any more")
    os._exit(1)


def _enter(namespace: str) -> None:
    descriptor = os.open(namespace, os.O_RDONLY | os.O_CLOEXEC)
    if ctypes.CDLL(None, use_errno=True).setns(descriptor, _CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), f"{namespace} cannot be entered")
    os.close(descriptor)


def _until_ended(tree: Tree) -> None:
    poll = select.poll()
    poll.register(_VMM, select.POLLIN)
    while not poll.poll(_SWEEP_MS):
        tree.close_idle()


main()
