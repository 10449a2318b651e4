"""Disk space in reserve: a file that holds nothing but room, given up so that what has happened can be written down.

It lies beside the journal. No run starts on a disk that is low, so what it has to last for is the end of the runs that
are open: some ten pages each.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from jetwatch.events import DiskLow

RESERVE_BYTES = 8 * 1024 * 1024
"""Twice the write-ahead log at its longest: it may have to be written into the database with nothing else free."""


class Reserve:
    """One file of RESERVE_BYTES, there or not. Not for two threads at once."""

    def __init__(self, path: Path) -> None:
        self._path = path

    @property
    def is_held(self) -> bool:
        """Whether the whole of it is allocated."""
        try:
            return self._path.stat().st_blocks * 512 >= RESERVE_BYTES
        except OSError:
            return False

    def keep(self) -> bool:
        """Take it, if the file system has twice as much to give. Returns whether it is held."""
        if self.is_held:
            return True
        with suppress(OSError):
            if self._free()[0] >= 2 * RESERVE_BYTES:
                self._allocate()
                return True
        return False

    def give_up(self) -> DiskLow | None:
        """Free it. Returns what there is to tell of that; None when there was none."""
        try:
            self._path.unlink()
        except OSError:
            return None
        free_bytes, free_inodes = self._free()
        return DiskLow(
            path=str(self._path.parent),
            free_bytes=free_bytes,
            free_inodes=free_inodes,
            reserve_bytes=RESERVE_BYTES,
            reserve_inodes=1,
        )

    def _allocate(self) -> None:
        fd = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            os.posix_fallocate(fd, 0, RESERVE_BYTES)
        except OSError:
            self._path.unlink()
            raise
        finally:
            os.close(fd)

    def _free(self) -> tuple[int, int]:
        """Bytes and inodes; -1 where inodes are not counted."""
        stat = os.statvfs(self._path.parent)
        return stat.f_bavail * stat.f_frsize, stat.f_favail if stat.f_files else -1
