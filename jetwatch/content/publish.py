"""Makes a directory full at once: it is filled beside, and renamed onto the empty one when all is right.

Where the parent may not be written (it is the agent's, and the fetch runs as somebody else) the filling goes on in a
hidden directory inside, and its entries are moved up one by one; a caller that is told of no success must not use it.
What a killed fetch left is removed by the next one beside it: a living one holds a lock on its own.

The rule: all is done by descriptors, and what is filled belongs to us alone until it is whole. So whoever may rename
in the directories around it can spoil this fetch, and change nothing else by it.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import secrets
import stat
import time
from collections.abc import Iterator
from pathlib import Path

from msgspec import Struct

from jetwatch import trees
from jetwatch.content.places import enter
from jetwatch.content.source import ContentStalled
from jetwatch.content.staging import path_error
from jetwatch.trust import Place

PREFIX = ".jetwatch-"
_OURS = re.compile(r"\.jetwatch-[0-9a-f]{16}")
_YOUNG_S = 60.0  # between its making and its locking a directory is nobody's
_OPEN = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class Filling(Struct, frozen=True):
    """A new directory that is being filled: its name in the directory `above`, and itself. `beside`: not inside."""

    above: int
    name: str
    fd: int
    beside: bool

    @property
    def path(self) -> Path:
        """The directory itself, whatever its name has become meanwhile."""
        return Path(f"/proc/self/fd/{self.fd}")

    def remove(self) -> None:
        """Take it away, with what is in it."""
        with contextlib.suppress(OSError):
            _clear(self.fd)
            os.rmdir(self.name, dir_fd=self.above)


class Target:
    """An existing directory that is empty, or was made for this fetch. Raises ContentStalled where it is neither.

    A context manager, which closes its descriptors.
    """

    def __init__(self, path: Path) -> None:
        self.path = Path(os.path.normpath(path.absolute()))
        self._made = False
        self._fd = -1
        try:
            self._above = enter(self.path.parent)
        except OSError as error:
            raise path_error(error, self.path) from None
        try:
            self._fd = self._opened()
            self._facts = os.fstat(self._fd)
            _sweep(self._above.below(self._fd))
            self._refuse_if_full()
        except OSError as error:
            self.close()
            raise path_error(error, self.path) from None
        except ContentStalled:
            self.close()
            raise

    def __enter__(self) -> Target:
        """Itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close its descriptors."""
        self.close()

    def close(self) -> None:
        """Give the descriptors back."""
        for fd in (self._above.fd, self._fd):
            if fd >= 0:
                os.close(fd)

    def _opened(self) -> int:
        """The directory, made if there is none."""
        try:
            return os.open(self.path.name, _OPEN, dir_fd=self._above.fd)
        except FileNotFoundError:
            os.mkdir(self.path.name, dir_fd=self._above.fd)
            self._made = True
        except OSError:
            if self._is_link():
                raise ContentStalled(f"{self.path}: expected an empty directory, found a symlink") from None
            raise
        return os.open(self.path.name, _OPEN, dir_fd=self._above.fd)

    def _refuse_if_full(self) -> None:
        if _names(self._fd):
            raise ContentStalled(f"{self.path}: expected an empty directory; there is something in it")

    def _is_link(self) -> bool:
        try:
            os.readlink(self.path.name, dir_fd=self._above.fd)
        except OSError:
            return False
        return True

    @contextlib.contextmanager
    def staged(self) -> Iterator[Path]:
        """Lend an empty directory to fill. If all goes well its tree is the target's; else nothing of it is left."""
        filling = self._beside() or self._inside()
        published = False
        try:
            fcntl.flock(filling.fd, fcntl.LOCK_EX)
            yield filling.path
            published = self._publish(filling)
        except OSError as error:
            raise path_error(error, self._named(error, filling)) from None
        finally:
            if not published:
                filling.remove()
            os.close(filling.fd)

    def _named(self, error: OSError, filling: Filling) -> str:
        """What an error is about, in words that outlive the fetch."""
        about = os.fsdecode(error.filename or "")
        return about if about.startswith("/") and not about.startswith(str(filling.path)) else str(self.path)

    def withdraw(self) -> None:
        """Remove the directory again if it was made for this fetch and stayed empty."""
        if self._made:
            with contextlib.suppress(OSError):
                os.rmdir(self.path.name, dir_fd=self._above.fd)

    def _beside(self) -> Filling | None:
        """A new directory that can be renamed onto the target, or None where there can be none."""
        try:
            if os.fstat(self._above.fd).st_dev != self._facts.st_dev or os.path.ismount(self.path):
                return None
            if os.path.samestat(Path.cwd().stat(), self._facts):
                return None  # who called us stands in it, and must not stand in a directory that is gone
            _sweep(self._above)
            return _made(self._above.fd, beside=True)
        except OSError:
            return None

    def _inside(self) -> Filling:
        try:
            return _made(self._fd, beside=False)
        except OSError as error:
            raise path_error(error, self.path) from None

    def _publish(self, filling: Filling) -> bool:
        """Put what is whole into its place. True: the very directory that was filled is there."""
        if not filling.beside or not self._handed_over(filling.fd):
            for name in sorted(_names(filling.fd)):
                os.rename(name, name, src_dir_fd=filling.fd, dst_dir_fd=self._fd)
            return False
        os.rename(filling.name, self.path.name, src_dir_fd=filling.above, dst_dir_fd=filling.above)
        found = os.stat(self.path.name, dir_fd=filling.above, follow_symlinks=False)
        if not os.path.samestat(found, os.fstat(filling.fd)):
            raise ContentStalled(f"{self.path}: somebody put another thing in its place while it was filled")
        return True

    def _handed_over(self, fd: int) -> bool:
        """Give it the target's owner and mode. Only now: until it was whole nobody else was to reach into it."""
        owner = (self._facts.st_uid, self._facts.st_gid)
        try:
            if owner != (os.geteuid(), os.getegid()):
                os.fchown(fd, *owner)
        except PermissionError:
            return False
        os.fchmod(fd, stat.S_IMODE(self._facts.st_mode))
        return True


def _sweep(place: Place) -> None:
    """Remove staging directories that no living fetch holds.

    Where another account may rename, nothing goes: what has such a name may be anything that was ours before.
    """
    if not place.ours:
        return
    listing = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=place.fd)
    try:
        for name in filter(_OURS.fullmatch, _names(listing)):
            with contextlib.suppress(OSError):
                _sweep_one(Filling(place.fd, name, os.open(name, _OPEN, dir_fd=place.fd), beside=True))
    finally:
        os.close(listing)


def _sweep_one(left: Filling) -> None:
    try:
        facts = os.fstat(left.fd)
        fcntl.flock(left.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if facts.st_uid == os.geteuid() and time.time() - facts.st_ctime > _YOUNG_S:
            left.remove()
    finally:
        os.close(left.fd)


def _made(above: int, *, beside: bool) -> Filling:
    """A new directory. One with something in it was put in its place meanwhile, and may be anybody's."""
    name = f"{PREFIX}{secrets.token_hex(8)}"
    os.mkdir(name, 0o700, dir_fd=above)
    fd = os.open(name, _OPEN, dir_fd=above)
    if _names(fd):
        os.close(fd)
        raise OSError(errno.EBUSY, os.strerror(errno.EBUSY), name)
    return Filling(above, name, fd, beside)


def _names(fd: int) -> list[str]:
    return os.listdir(fd)


def _clear(fd: int) -> None:
    """Take away all that lies in an open directory, following no link. What cannot go stays."""
    for name in _names(fd):
        with contextlib.suppress(OSError):
            try:
                os.unlink(name, dir_fd=fd)
            except OSError:
                trees.remove(name, dir_fd=fd)
