"""What is told of a file: ``fattr3`` of RFC 1813, and its errors for ours."""

from __future__ import annotations

import errno
import os
import stat
import struct

from warmboot.folder_server.xdr import u32

_FATTR = struct.Struct(">IIIIIQQIIQQIIIIII")
_WCC = struct.Struct(">IQIIII")
_TYPES = {
    stat.S_IFREG: 1, stat.S_IFDIR: 2, stat.S_IFBLK: 3, stat.S_IFCHR: 4,
    stat.S_IFLNK: 5, stat.S_IFSOCK: 6, stat.S_IFIFO: 7,
}  # fmt: skip
_SECOND = 10**9

OK = 0
NOT_SYNC, NOTSUPP, TOOSMALL, SERVERFAULT, BADTYPE = 10002, 10004, 10005, 10006, 10007
BADHANDLE = 10001
PERM, NOENT, IO, ACCES, EXIST, NOTDIR, ISDIR = 1, 2, 5, 13, 17, 20, 21
INVAL, FBIG, NOSPC, ROFS, MLINK, NAMETOOLONG, NOTEMPTY, DQUOT, STALE = (
    22, 27, 28, 30, 31, 63, 66, 69, 70,
)  # fmt: skip

_STATUS = {
    errno.EPERM: PERM, errno.ENOENT: NOENT, errno.EIO: IO, errno.EACCES: ACCES,
    errno.EEXIST: EXIST, errno.EXDEV: 18, errno.ENODEV: 19, errno.ENOTDIR: NOTDIR,
    errno.EISDIR: ISDIR, errno.EINVAL: INVAL, errno.EFBIG: FBIG, errno.ENOSPC: NOSPC,
    errno.EROFS: ROFS, errno.EMLINK: MLINK, errno.ENAMETOOLONG: NAMETOOLONG,
    errno.ENOTEMPTY: NOTEMPTY, errno.EDQUOT: DQUOT, errno.ESTALE: STALE,
    errno.ELOOP: INVAL, errno.ENXIO: INVAL, errno.EOPNOTSUPP: NOTSUPP, errno.ETXTBSY: ACCES,
    errno.EMFILE: 10008, errno.ENFILE: 10008, errno.ENOMEM: 10008, errno.EBUSY: ACCES,
}  # fmt: skip


class Refused(Exception):
    """A procedure ends with this status."""

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


def status_of(error: OSError) -> int:
    return _STATUS.get(error.errno or 0, IO)


def attributes(found: os.stat_result, fsid: int, fileid: int) -> bytes:
    """``fattr3``."""
    device = found.st_rdev
    return _FATTR.pack(
        _TYPES.get(stat.S_IFMT(found.st_mode), 1), found.st_mode & 0o7777, found.st_nlink,
        found.st_uid, found.st_gid, found.st_size, found.st_blocks * 512,
        os.major(device), os.minor(device), fsid, fileid,
        *_time(found.st_atime_ns), *_time(found.st_mtime_ns), *_time(found.st_ctime_ns),
    )  # fmt: skip


def before(found: os.stat_result | None) -> bytes:
    """``pre_op_attr``."""
    if found is None:
        return u32(0)
    changed, status = _time(found.st_mtime_ns), _time(found.st_ctime_ns)
    return _WCC.pack(1, found.st_size, *changed, *status)


def _time(ns: int) -> tuple[int, int]:
    """The protocol's seconds have 32 bits, and no sign."""
    seconds, rest = divmod(ns, _SECOND)
    return min(max(seconds, 0), 0xFFFFFFFF), rest
