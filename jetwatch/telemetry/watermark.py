"""How far the history has been told, across kills of the agent that tells it."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path


class Watermark:
    """Up to which event of the journal's history the log was written: what is above it, the next agent tells.

    Overwritten in place after each line, so a kill repeats at most one line; synced when it is opened and every hundred
    lines, so a power cut repeats a hundred at most. A line carries its `seq`: who reads it twice can tell.
    """

    _DIGITS = 20
    _SYNC_EVERY = 100

    def __init__(self, path: Path, default: int) -> None:
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        text = os.pread(self._fd, self._DIGITS, 0)
        self.seq = int(text) if text.isdigit() else default
        self._unsynced = 0
        self.raise_to(self.seq)
        with suppress(OSError):
            # Without a length after a power cut it would say nothing, and nothing would be taken for everything.
            os.fsync(self._fd)
            _fsync_directory(path.parent)

    def raise_to(self, seq: int) -> None:
        """Everything up to `seq` is told. On a disk that takes nothing now the next line says it again."""
        self.seq = seq
        with suppress(OSError):
            os.pwrite(self._fd, f"{seq:0{self._DIGITS}}".encode(), 0)
            self._unsynced += 1
            if self._unsynced >= self._SYNC_EVERY:
                self._unsynced = 0
                os.fdatasync(self._fd)


def _fsync_directory(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
