"""Bytes to a stream that may be slow, stopped or gone, without ever waiting for it.

Whole lines are queued in memory up to a bound and written as the stream takes them; a line that finds no room is
dropped and counted, never torn. The descriptor handed in keeps its flags: others may share it.
"""

from __future__ import annotations

import errno
import os
import select
import socket
import stat
import sys
from collections import deque

BACKLOG_BYTES = 1024 * 1024
_AT_ONCE_BYTES = select.PIPE_BUF  # what poll() promises room for, and what is never mixed with another writer's bytes


class Outlet:
    """One stream. Not for two threads at once. `dropped` counts lines that were not (or not wholly) written."""

    def __init__(self, fd: int, backlog_bytes: int = BACKLOG_BYTES) -> None:
        self.fd = fd
        self.dropped = 0
        self._limit = backlog_bytes
        self._waiting: deque[bytes] = deque()
        self._waiting_bytes = 0
        self._written = 0
        self._is_torn = False
        mode = _mode(fd)
        self._is_socket = stat.S_ISSOCK(mode)
        # A regular file takes a line at once, and nobody who truncates it comes between.
        self._at_once_bytes = sys.maxsize if stat.S_ISREG(mode) else _AT_ONCE_BYTES
        self._own_fd = _reopen(fd) if stat.S_ISCHR(mode) else None
        if self._own_fd is not None:
            self.fd = self._own_fd

    @property
    def has_backlog(self) -> bool:
        """Whether lines wait to be written."""
        return bool(self._waiting)

    def put(self, line: bytes) -> None:
        """Write `line` (which ends in a newline), now or later."""
        if self._is_torn and not self._waiting:
            line = b"\n" + line
        if self._waiting_bytes + len(line) > self._limit:
            self.flush()
        if self._waiting_bytes + len(line) > self._limit:
            self.dropped += 1
            return
        self._waiting.append(line)
        self._waiting_bytes += len(line)
        self.flush()

    def flush(self) -> None:
        """Write what the stream takes at this moment. A stream that is closed takes nothing: its lines are dropped."""
        try:
            while self._waiting:
                count = self._write(memoryview(self._waiting[0])[self._written :][: self._at_once_bytes])
                if count == 0:
                    return
                self._advance(count)
        except OSError as error:
            # EPIPE, EBADF, ENOSPC, EIO: nobody will read these lines. A named pipe may find a reader again later, and a
            # disk room: then the half line that it took before is ended first.
            self._is_torn = self._is_torn or (self._written > 0 and error.errno != errno.EPIPE)
            self.dropped += len(self._waiting)
            self._waiting.clear()
            self._waiting_bytes = self._written = 0

    def wait(self, timeout_s: float) -> bool:
        """Whether the stream takes bytes (or has failed) within `timeout_s` seconds."""
        poll = select.poll()
        poll.register(self.fd, select.POLLOUT)
        return bool(poll.poll(round(timeout_s * 1000)))

    def use(self, fd: int) -> None:
        """Go on with another descriptor in place of the one handed in, which is closed. What waits goes there whole."""
        os.close(self.fd)
        self.fd = fd
        self._written = 0
        self._is_torn = False

    def close(self) -> None:
        """Give back what was opened here; the descriptor handed in stays open."""
        if self._own_fd is not None:
            os.close(self._own_fd)
            self._own_fd = None

    def _advance(self, count: int) -> None:
        self._written += count
        self._is_torn = False
        if self._written == len(self._waiting[0]):
            self._waiting_bytes -= len(self._waiting.popleft())
            self._written = 0

    def _write(self, data: memoryview) -> int:
        """How many bytes the stream took, 0 when it takes none now."""
        try:
            if self._is_socket:
                return _send(self.fd, data)
            return os.write(self.fd, data) if self.wait(0) else 0
        except BlockingIOError:
            return 0


def _send(fd: int, data: memoryview) -> int:
    with socket.socket(fileno=os.dup(fd)) as stream:
        return stream.send(data, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)


def _mode(fd: int) -> int:
    try:
        return os.fstat(fd).st_mode
    except OSError:
        return 0


def _reopen(fd: int) -> int | None:
    """A description of our own of a terminal, one that never waits: poll() promises only one byte of room there.

    None where that may not be opened (a terminal of another user, after su).
    """
    try:
        return os.open(f"/proc/self/fd/{fd}", os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    except OSError:
        return None
