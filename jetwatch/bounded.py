"""Reads of what others wrote, none longer than its bound.

The rule: a file of another account is opened without following a link, never waits (a FIFO in its place), is looked at
before it is read, and is never read beyond the bytes that its reader names. Everything that goes wrong is an OSError.
Imports next to nothing: a supervisor loads it.
"""

from __future__ import annotations

import errno
import os
import stat

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

NO_SUCH_FILE = (errno.ELOOP, errno.EINVAL, errno.EFBIG, errno.ENXIO)
"""What `read_file` raises where something else was put in the place of a file: a link, a FIFO, a socket, too much."""

_REGULAR = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY
_KERNEL = os.O_RDONLY | os.O_CLOEXEC
_CHUNK_BYTES = 64 * 1024


def read_file(path: str | os.PathLike[str], most_bytes: int) -> bytes:
    """The whole of a regular file.

    Raises OSError: ELOOP where its name is a link, EINVAL where it is no regular file, EFBIG where it is longer.
    """
    fd = os.open(path, _REGULAR)
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise _error(errno.EINVAL, "it is no regular file", path)
        data = _read(fd, most_bytes + 1)
    finally:
        os.close(fd)
    if len(data) > most_bytes:
        raise _error(errno.EFBIG, f"it is longer than {most_bytes} bytes", path)
    return data


def read_proc(path: str | os.PathLike[str], most_bytes: int) -> bytes:
    """What the kernel tells in a file of /proc or /sys, at most its first `most_bytes`. Raises OSError."""
    fd = os.open(path, _KERNEL)
    try:
        return _read(fd, most_bytes)
    finally:
        os.close(fd)


def _read(fd: int, most_bytes: int) -> bytes:
    """Piece by piece, as a file of the kernel gives one page at a time, and a long one needs no room at once."""
    pieces = []
    left = most_bytes
    while left > 0 and (piece := os.read(fd, min(left, _CHUNK_BYTES))):
        pieces.append(piece)
        left -= len(piece)
    return b"".join(pieces)


def _error(number: int, sentence: str, path: Any) -> OSError:
    return OSError(number, sentence, os.fspath(path))
