"""The mount protocol, version 3 (RFC 1813, appendix I): a folder's handle."""

from __future__ import annotations

from warmboot.folder_server.attributes import NOENT
from warmboot.folder_server.rpc import Procedure, Program
from warmboot.folder_server.tree import Tree
from warmboot.folder_server.xdr import Reader, opaque, u32

PROGRAM, VERSION = 100005, 3
_AUTH_SYS = 1
_MOST_PATH_BYTES = 1024


class Mount:
    """Nothing is noted of who has mounted what: a VM that is gone would stay in it for ever."""

    def __init__(self, tree: Tree) -> None:
        self._tree = tree

    @property
    def program(self) -> Program:
        nothing: Procedure = lambda _: []  # noqa: E731
        return Program(VERSION, {0: nothing, 1: self._mount, 3: nothing, 4: nothing})

    def _mount(self, call: Reader) -> list[bytes]:
        path = call.opaque(_MOST_PATH_BYTES)
        node = self._tree.root(path.decode("ascii", "replace").strip("/"))
        if node is None:
            return [u32(NOENT)]
        return [u32(0), opaque(node.handle), u32(1), u32(_AUTH_SYS)]
