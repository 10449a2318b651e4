"""A FUSE file system that answers everything but one name: whoever looks that up stands in D state until it is let go.

Just enough of the kernel's protocol (linux/fuse.h) for an empty directory. Needs root and /dev/fuse.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import stat
import struct
import threading
import time
from pathlib import Path

_HEADER_IN = struct.Struct("=IIQQIIIHH")  # len, opcode, unique, nodeid, uid, gid, pid, total_extlen, padding
_HEADER_OUT = struct.Struct("=IiQ")  # len, error, unique
_LOOKUP, _FORGET, _GETATTR, _STATFS, _INIT = 1, 2, 3, 17, 26
_OPENDIR, _READDIR, _RELEASEDIR, _INTERRUPT, _BATCH_FORGET = 27, 28, 29, 36, 42
_SILENT = (_FORGET, _INTERRUPT, _BATCH_FORGET)
_MNT_FORCE, _MNT_DETACH = 1, 2
_BUFFER_BYTES = 256 * 1024


def can_mount() -> bool:
    """Whether this user may mount one here."""
    return os.geteuid() == 0 and os.access("/dev/fuse", os.R_OK | os.W_OK)


class StallingFuse:
    """Mounted at `path`, an existing directory, from its making to `close`. Its entry `stall` is never answered."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.stall = path / "stall"
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._fd = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
        options = f"fd={self._fd},rootmode=40000,user_id=0,group_id=0,allow_other"
        if self._libc.mount(b"stalling", os.fsencode(path), b"fuse", 0, options.encode()) != 0:
            code = ctypes.get_errno()
            os.close(self._fd)
            raise OSError(code, os.strerror(code), str(path))
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def close(self) -> None:
        """Unmount, once; everybody who waits is let go."""
        if not self._thread.is_alive():
            return
        for flag in (_MNT_FORCE, _MNT_DETACH):  # the first ends the connection even where the mount is busy
            self._libc.umount2(os.fsencode(self.path), flag)
        self._thread.join(10)
        os.close(self._fd)

    def _serve(self) -> None:
        while True:
            try:
                request = os.read(self._fd, _BUFFER_BYTES)
            except OSError as error:
                if error.errno in (errno.ENOENT, errno.EINTR, errno.EAGAIN):
                    continue
                return
            self._answer(request)

    def _answer(self, request: bytes) -> None:
        _, opcode, unique, *_ = _HEADER_IN.unpack_from(request)
        body = request[_HEADER_IN.size :]
        if opcode in _SILENT or (opcode == _LOOKUP and body == b"stall\0"):
            return
        zeros = {_STATFS: 80, _OPENDIR: 16, _READDIR: 0, _RELEASEDIR: 0}
        answers = {_INIT: _init, _GETATTR: _attributes}
        if opcode in answers:
            self._reply(unique, 0, answers[opcode]())
        elif opcode in zeros:
            self._reply(unique, 0, bytes(zeros[opcode]))
        else:
            self._reply(unique, errno.ENOENT if opcode == _LOOKUP else errno.ENOSYS, b"")

    def _reply(self, unique: int, code: int, body: bytes) -> None:
        with contextlib.suppress(OSError):  # whoever asked is gone
            os.write(self._fd, _HEADER_OUT.pack(_HEADER_OUT.size + len(body), -code, unique) + body)


def _init() -> bytes:
    """Protocol 7.31, nothing optional."""
    return struct.pack("=IIIIHHIIHHI28x", 7, 31, 0, 0, 0, 0, 4096, 1, 0, 0, 0)


def _attributes() -> bytes:
    """An empty directory of the mounting user, true for an hour."""
    now = int(time.time())
    mode = stat.S_IFDIR | 0o700
    times = struct.pack("=QQQIII", now, now, now, 0, 0, 0)
    return (
        struct.pack("=QII", 3600, 0, 0)
        + struct.pack("=QQQ", 1, 4096, 8)
        + times
        + struct.pack("=IIIIIII", mode, 2, os.geteuid(), os.getegid(), 0, 4096, 0)
    )
