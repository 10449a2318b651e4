"""Makes a directory full at once: it is filled beside, and renamed onto the empty one when all is right.

Where the parent may not be written (it is the agent's, and the fetch runs as somebody else) the filling goes on in a
hidden directory inside, and its entries are moved up one by one; a caller that is told of no success must not use it.
What a killed fetch left is removed by the next one beside it: a living one holds a lock on its own.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import secrets
import shutil
import stat
import time
from collections.abc import Iterator
from pathlib import Path

from jetwatch.content.source import ContentStalled
from jetwatch.content.staging import path_error

PREFIX = ".jetwatch-"
_OURS = re.compile(r"\.jetwatch-[0-9a-f]{16}")
_YOUNG_S = 60.0  # between its making and its locking a directory is nobody's


class Target:
    """An existing directory that is empty, or was made for this fetch. Raises ContentStalled where it is neither."""

    def __init__(self, path: Path) -> None:
        self.path = Path(os.path.normpath(path.absolute()))
        self._made = False
        try:
            if not self.path.exists():
                self.path.mkdir()
                self._made = True
            self._facts = self.path.stat(follow_symlinks=False)
            if stat.S_ISLNK(self._facts.st_mode):
                raise ContentStalled(f"{self.path}: expected an empty directory, found a symlink")
            sweep(self.path)
            if any(self.path.iterdir()):
                raise ContentStalled(f"{self.path}: expected an empty directory; there is something in it")
        except OSError as error:
            raise path_error(error, self.path) from None

    @contextlib.contextmanager
    def staged(self) -> Iterator[Path]:
        """Lend an empty directory to fill. If all goes well its tree is the target's; else nothing of it is left."""
        staging = self._beside() or self._inside()
        lock = os.open(staging, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield staging
            self._publish(staging)
        except OSError as error:
            raise path_error(error, error.filename or staging) from None
        finally:
            shutil.rmtree(staging, ignore_errors=True)
            os.close(lock)

    def withdraw(self) -> None:
        """Remove the directory again if it was made for this fetch and stayed empty."""
        if self._made:
            with contextlib.suppress(OSError):
                self.path.rmdir()

    def _beside(self) -> Path | None:
        """A new directory that can be renamed onto the target, or None where there can be none."""
        parent = self.path.parent
        try:
            if parent.stat().st_dev != self._facts.st_dev or os.path.ismount(self.path):
                return None
            if os.path.samestat(Path.cwd().stat(), self._facts):
                return None  # who called us stands in it, and must not stand in a directory that is gone
            sweep(parent)
            staging = _made(parent)
        except OSError:
            return None
        try:
            if (os.geteuid(), os.getegid()) != (self._facts.st_uid, self._facts.st_gid):
                os.chown(staging, self._facts.st_uid, self._facts.st_gid)
        except OSError:
            staging.rmdir()
            return None
        return staging

    def _inside(self) -> Path:
        try:
            return _made(self.path)
        except OSError as error:
            raise path_error(error, self.path) from None

    def _publish(self, staging: Path) -> None:
        if staging.parent != self.path:
            staging.chmod(stat.S_IMODE(self._facts.st_mode))
            staging.rename(self.path)
            return
        for entry in sorted(staging.iterdir()):
            entry.rename(self.path / entry.name)


def sweep(parent: Path) -> None:
    """Remove staging directories in `parent` that no living fetch holds."""
    for left in [path for path in parent.iterdir() if _OURS.fullmatch(path.name)]:
        with contextlib.suppress(OSError):
            descriptor = os.open(left, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                facts = os.fstat(descriptor)
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if facts.st_uid == os.geteuid() and time.time() - facts.st_ctime > _YOUNG_S:
                    shutil.rmtree(left, ignore_errors=True)
            finally:
                os.close(descriptor)


def _made(parent: Path) -> Path:
    staging = parent / f"{PREFIX}{secrets.token_hex(8)}"
    staging.mkdir(mode=0o700)
    return staging
