"""Opens a directory part by part, by descriptors, and knows whether anybody else could have a hand in it.

The rule: where another account may rename, no link is followed and nothing is done by path. A place that is `ours` lies
below directories that only root and this account can change: there, and only there, a path means what it meant before.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections import deque
from collections.abc import Iterator
from pathlib import Path

from msgspec import Struct

from jetwatch import trees
from jetwatch.content.source import ContentStalled

LINKS = 40
"""As many as the kernel follows in one path."""
_ENTER = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class Place(Struct, frozen=True):
    """An open directory (O_PATH). `ours`: no other account can rename what is in it, or anything on the way to it."""

    fd: int
    ours: bool


def is_ours(facts: os.stat_result) -> bool:
    """Whether nobody but root and this account can change a directory, or what of theirs lies in a sticky one."""
    if facts.st_uid not in (0, os.geteuid()):
        return False
    others = bool(facts.st_mode & stat.S_IWOTH)
    others |= bool(facts.st_mode & stat.S_IWGRP) and facts.st_gid not in (0, os.getegid())
    return not others or bool(facts.st_mode & stat.S_ISVTX)


@contextlib.contextmanager
def entered(path: Path, *, make_missing: bool = False) -> Iterator[Place]:
    """Lend a directory. `make_missing`: what is missing of the way is made.

    Raises OSError, and ContentStalled for a link that another account may have put there.
    """
    place = enter(path, make_missing=make_missing)
    try:
        yield place
    finally:
        os.close(place.fd)


def enter(path: Path, *, make_missing: bool = False) -> Place:
    """The same, for whoever closes `fd` himself."""
    walk = _Walk(path.absolute())
    try:
        while walk.left:
            walk.step(make_missing=make_missing)
    except OSError as error:
        os.close(walk.fd)
        raise OSError(error.errno, os.strerror(error.errno or 0), str(path)) from None
    except ContentStalled:
        os.close(walk.fd)
        raise
    return Place(walk.fd, walk.ours)


class _Walk:
    """Where a walk from the top has come to, and the parts that are left of it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.left = deque(path.parts[1:])
        self.links = 0
        self.fd = os.open("/", _ENTER)
        self.ours = is_ours(os.fstat(self.fd))

    def step(self, *, make_missing: bool) -> None:
        """Enter one part, or take a link's parts in its place."""
        part = self.left.popleft()
        target = _link(self.fd, part)
        if target is not None:
            self._follow(part, target)
            return
        self._go(_below(self.fd, part, make_missing=make_missing))
        self.ours &= is_ours(os.fstat(self.fd))

    def _follow(self, part: str, target: str) -> None:
        self.links += 1
        if self.links > LINKS:
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
        maker = os.stat(part, dir_fd=self.fd, follow_symlinks=False).st_uid
        if not self.ours or maker not in (0, os.geteuid()):
            raise ContentStalled(
                f"{self.path}: {part!r} is a link that another account may have made: write the path without it"
            )
        parts = Path(target).parts
        if target.startswith("/"):
            parts = parts[1:]
            self._go(os.open("/", _ENTER))
        self.left.extendleft(reversed(parts))

    def _go(self, fd: int) -> None:
        os.close(self.fd)
        self.fd = fd


def _link(fd: int, part: str) -> str | None:
    """What a link says; None: it is none, or is not there."""
    try:
        return os.readlink(part, dir_fd=fd)
    except OSError as error:
        if error.errno in (errno.EINVAL, errno.ENOENT):
            return None
        raise


def _below(fd: int, part: str, *, make_missing: bool) -> int:
    try:
        return os.open(part, _ENTER, dir_fd=fd)
    except FileNotFoundError:
        if not make_missing:
            raise
    with contextlib.suppress(FileExistsError):
        os.mkdir(part, dir_fd=fd)
    return os.open(part, _ENTER, dir_fd=fd)


def names(fd: int) -> list[str]:
    """What lies in an open directory."""
    return os.listdir(fd)


def remove_below(fd: int) -> None:
    """Take away all that lies in an open directory, following no link. What cannot go stays."""
    for name in names(fd):
        with contextlib.suppress(OSError):
            try:
                os.unlink(name, dir_fd=fd)
            except OSError:
                trees.remove(name, dir_fd=fd)
