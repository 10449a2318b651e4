"""Whole records of rows that are kept in the journal as excerpts: private files in the directory of their run.

A file is written and synced before the row that names it, and never changed: its name says what is in it. So a row and
its file always fit, whenever the machine stops. It goes with the run's directory.
"""

from __future__ import annotations

import os
import re
import zlib
from contextlib import suppress
from pathlib import Path

_POINTER = re.compile(rb'\{"whole":"(row\.[0-9a-z.-]+\.json)",')


class Wholes:
    """Below `runs`, the parent of all runs' directories."""

    def __init__(self, runs: Path) -> None:
        self._runs = runs

    def keep(self, run_id: str, what: str, data: bytes, excerpt: bytes) -> bytes:
        """Write the record `data`, called `what`; return its row: the `excerpt`, and where all is. Raises OSError."""
        name = f"row.{what}.{zlib.crc32(data):08x}-{len(data)}.json"
        directory = self._runs / run_id
        if not directory.is_dir():
            directory.mkdir(mode=0o700, parents=True)
            _sync(self._runs)
        building = directory / f"{name}.new"
        fd = os.open(building, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        with os.fdopen(fd, "wb") as target:
            target.write(data)
            target.flush()
            os.fsync(fd)
        building.rename(directory / name)
        _sync(directory)
        return b'{"whole":"%s",%s' % (name.encode(), excerpt[1:])

    def read(self, run_id: str, row: bytes) -> bytes | None:
        """The whole record of a row; None when it is not there any more."""
        name = name_in(row)
        if name is None:
            return None
        try:
            data = (self._runs / run_id / name).read_bytes()
        except OSError:
            return None
        return data if name.endswith(f".{zlib.crc32(data):08x}-{len(data)}.json") else None

    def forget(self, run_id: str, name: str) -> None:
        """Another one has taken its place."""
        with suppress(OSError):
            (self._runs / run_id / name).unlink()


def name_in(row: bytes) -> str | None:
    """The file that a row names; None: the row is whole itself."""
    found = _POINTER.match(row)
    return found.group(1).decode() if found is not None else None


def _sync(directory: Path) -> None:
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
