"""A FUSE file system that shows a directory, and has the fault that a file names: `unruly_fs.py ROOT MOUNT FAULT`.

The faults: `stale` (ESTALE, as an export that was replaced), `broken` (EIO, as a soft mount that gave up), `denied`
(EACCES), `hang` (no answer until the fault is another), each for every call; with ` read` behind it only the reading of
files has it, so that a listing still works. An empty or missing file is no fault.
"""

from __future__ import annotations

import errno
import sys
import time
from pathlib import Path
from typing import Any

import mfusepy  # type: ignore[import-not-found,unused-ignore]

CODES = {"stale": errno.ESTALE, "broken": errno.EIO, "denied": errno.EACCES}
STAT = ("st_mode", "st_nlink", "st_size", "st_uid", "st_gid", "st_atime", "st_mtime", "st_ctime")


class UnrulyFs(mfusepy.Operations):  # type: ignore[misc,unused-ignore]
    """Passes on what is asked, unless the fault of the moment forbids it."""

    use_ns = True

    def __init__(self, root: Path, fault: Path) -> None:
        self.root = root
        self.fault = fault

    def suffer(self, *, reading: bool = False) -> None:
        """Fail or hang, as the fault says."""
        while True:
            said = self.fault.read_text().split() if self.fault.exists() else []
            if not said or (said[1:] == ["read"] and not reading):
                return
            if said[0] != "hang":
                raise mfusepy.FuseOSError(CODES[said[0]])
            time.sleep(0.02)

    def behind(self, path: str) -> Path:
        """The path that is shown as this one."""
        return self.root / path.lstrip("/")

    def getattr(self, path: str, fh: int | None = None) -> dict[str, Any]:
        """Of a file or directory."""
        self.suffer()
        try:
            found = self.behind(path).lstat()
        except OSError as error:
            raise mfusepy.FuseOSError(error.errno) from error
        times = {name: getattr(found, f"{name}_ns") for name in STAT if name.endswith("time")}
        return {name: getattr(found, name) for name in STAT} | times

    def readdir(self, path: str, fh: int) -> list[str]:
        """The names in a directory."""
        self.suffer()
        return [".", "..", *(entry.name for entry in self.behind(path).iterdir())]

    def readlink(self, path: str) -> str:
        """Where a symlink leads."""
        self.suffer()
        return str(self.behind(path).readlink())

    def read(self, path: str, size: int, offset: int, fh: int) -> bytes:
        """Some bytes of a file."""
        self.suffer(reading=True)
        with self.behind(path).open("rb") as file:
            file.seek(offset)
            return file.read(size)


def main() -> None:
    """Serve until it is unmounted or killed; several calls at once, so that one that hangs holds up no other."""
    root, mount, fault = map(Path, sys.argv[1:])
    options: dict[str, Any] = {"attr_timeout": 0, "entry_timeout": 0, "ro": True}
    mfusepy.FUSE(UnrulyFs(root, fault), str(mount), foreground=True, nothreads=False, **options)


if __name__ == "__main__":
    main()
