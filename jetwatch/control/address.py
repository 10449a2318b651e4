"""A Unix socket's address, and whose the other end is. The kernel takes 107 bytes of path; a longer one is reached
through its directory."""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PATH_LIMIT_BYTES = 107


@contextmanager
def address(path: Path) -> Iterator[str]:
    """A name of `path` that is short enough, valid inside the `with` block. Raises OSError."""
    if len(os.fsencode(path)) <= PATH_LIMIT_BYTES:
        yield str(path)
        return
    fd = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{fd}/{path.name}"
    finally:
        os.close(fd)


def peer_uid(stream: socket.socket) -> int:
    """Whose the other end is: who called connect(2) or, seen from there, listen(2), as the kernel saw it then."""
    credentials = struct.Struct("3i")  # struct ucred: pid, uid, gid
    data = stream.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, credentials.size)
    return int(credentials.unpack(data)[1])
