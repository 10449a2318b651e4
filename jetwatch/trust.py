"""What is trusted by its place: who owns it, who else may write to it, and the same of every directory above it.

The rule is that of sshd's StrictModes: each part of a path belongs to root or to an account that is trusted here, and
nobody else may write to it. Where a directory has the sticky bit (/tmp), others may write if the part below is ours. A
path is walked from `/` by descriptors. A link is followed by hand, and the directory that it lies in was judged before.
So where a walk ends well, no other account can change what the path leads to.
"""

from __future__ import annotations

import errno
import os
import stat
import struct
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from msgspec import Struct

from jetwatch.errors import NotTrusted

MOST_LINKS = 40
"""As many as the kernel follows."""

_LOOK = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
_ACL = "system.posix_acl_access"
_ACL_ENTRY = struct.Struct("<HHI")  # acl(5) as the kernel keeps it: tag, rights, uid or gid; a version of 4 bytes first
_ACL_USER, _ACL_OWN_GROUP, _ACL_GROUP = 0x02, 0x04, 0x08
_ACL_WRITE = 0x02


class Accounts(Struct, frozen=True):
    """Who may own and change what is trusted. Of groups only those that have no other members."""

    uids: frozenset[int]
    gids: frozenset[int]

    @classmethod
    def own(cls, *more: tuple[int, int]) -> Accounts:
        """Root, the account of this process, and `more` by uid and gid."""
        return cls.of((os.geteuid(), os.getegid()), *more)

    @classmethod
    def of(cls, *accounts: tuple[int, int]) -> Accounts:
        """Root, and these by uid and gid."""
        known = ((0, 0), *accounts)
        return cls(frozenset(uid for uid, _ in known), frozenset(gid for _, gid in known))

    @property
    def named(self) -> str:
        """For a sentence: `root`, or `root or uid 1000`."""
        return " or ".join(["root", *(f"uid {uid}" for uid in sorted(self.uids - {0}))])


def is_writable_by_others(facts: os.stat_result, accounts: Accounts, acl: bytes = b"") -> bool:
    """Whether somebody else may write to a file: everybody, a group of others, or who stands in its access list."""
    if facts.st_mode & stat.S_IWOTH:
        return True
    if not facts.st_mode & stat.S_IWGRP:  # with an access list these bits are its mask
        return False
    return facts.st_gid not in accounts.gids if not acl else any(_other_writers(facts.st_gid, accounts, acl))


def _other_writers(gid: int, accounts: Accounts, acl: bytes) -> Iterator[bool]:
    for tag, rights, number in _ACL_ENTRY.iter_unpack(acl[4:]):
        if rights & _ACL_WRITE:
            yield tag == _ACL_USER and number not in accounts.uids
            yield tag == _ACL_GROUP and number not in accounts.gids
            yield tag == _ACL_OWN_GROUP and gid not in accounts.gids


def require(path: Path, accounts: Accounts) -> None:
    """Raise NotTrusted unless `path` and all above it belong to these accounts; OSError where it cannot be seen."""
    os.close(_judged(look_up(path, accounts), path, accounts))


def open_file(path: Path, accounts: Accounts) -> int | None:
    """A descriptor to read the very file that `require` lets pass; None for what is no regular file.

    Raises NotTrusted, OSError. Opens no device and waits for no FIFO.
    """
    found = look_up(path, accounts)
    try:
        if not stat.S_ISREG(os.fstat(found).st_mode):
            return None
        _judge(path, "it", found, accounts)
        return os.open(f"/proc/self/fd/{found}", os.O_RDONLY | os.O_CLOEXEC)
    finally:
        os.close(found)


def open_directory(path: Path, accounts: Accounts, make: int | None = None) -> int:
    """A descriptor (O_PATH) of a directory in which nobody else can replace what is ours: private, or sticky as /tmp.

    What is missing of it is made with the mode `make`. Raises NotTrusted, OSError.
    """
    found = look_up(path, accounts, make)
    facts = os.fstat(found)
    if facts.st_mode & stat.S_ISVTX and facts.st_uid in accounts.uids:
        return found
    return _judged(found, path, accounts)


def open_directory_of_anybody(path: Path) -> int:
    """A descriptor (O_PATH) of a directory that may belong to others, but over no link that they could have put there.

    For files that are written there by descriptor: others get no say in where that is. Raises NotTrusted, OSError.
    """
    return _walk(path, Accounts.own(), make=None, strictly=False)


def look_up(path: Path, accounts: Accounts, make: int | None = None) -> int:
    """A descriptor (O_PATH) of what `path` leads to. All above it was judged, the thing itself is left to the caller.

    Directories that are missing are made with the mode `make`, if one is given. Raises NotTrusted, OSError.
    """
    return _walk(path, accounts, make=make, strictly=True)


def _judged(found: int, path: Path, accounts: Accounts) -> int:
    """The descriptor, closed where what it is of will not do."""
    try:
        _judge(path, "it", found, accounts)
    except BaseException:
        os.close(found)
        raise
    return found


def _walk(path: Path, accounts: Accounts, *, make: int | None, strictly: bool) -> int:
    walk = _Walk(path, accounts, make, strictly=strictly)
    try:
        while walk.left:
            walk.step()
    except OSError as error:
        walk.close()
        error.filename = str(walk.place)
        raise
    except BaseException:
        walk.close()
        raise
    return walk.here


class _Walk:
    """One walk. `here`: where it is, by descriptor; `place`: the same in words; `left`: the parts ahead, the next last.

    `theirs`: others may put into `here` what they like, all the way up or by the sticky bit.
    """

    def __init__(self, path: Path, accounts: Accounts, make: int | None, *, strictly: bool) -> None:
        self.path = path.absolute()
        self.accounts = accounts
        self.make = make
        self.strictly = strictly
        self.left = list(reversed(self.path.parts[1:]))
        self.place = Path("/")
        self.here = os.open("/", _LOOK | os.O_DIRECTORY)
        self.links = 0
        self.is_foreign = False

    def close(self) -> None:
        """Give the descriptor back."""
        os.close(self.here)

    def step(self) -> None:
        """Over one part: into it, or, where it is a link, to where that leads."""
        shared = self._judge_here()
        name = self.left.pop()
        parent, self.place = self.place, self.place.parent if name == ".." else self.place / name
        found = self._find(name)
        facts = os.fstat(found)
        try:
            if shared or stat.S_ISLNK(facts.st_mode):
                self._judge_part(facts, parent, shared=shared)
            if stat.S_ISLNK(facts.st_mode):
                target = PurePosixPath(os.readlink(name, dir_fd=self.here))
        except BaseException:
            os.close(found)
            raise
        if not stat.S_ISLNK(facts.st_mode):
            self._go(found, self.place)
            return
        os.close(found)
        self.links += 1
        if self.links > MOST_LINKS:
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
        if target.is_absolute():
            self._go(os.open("/", _LOOK | os.O_DIRECTORY), Path("/"))
        else:
            self.place = parent
        self.left += reversed(target.parts[1:] if target.is_absolute() else target.parts)

    def _go(self, there: int, place: Path) -> None:
        os.close(self.here)
        self.here, self.place = there, place

    def _judge_here(self) -> bool:
        """Whether others may write into this directory. Raises NotTrusted where they could replace what is ours."""
        facts = os.fstat(self.here)
        is_sticky = bool(facts.st_mode & stat.S_ISVTX) and facts.st_uid in self.accounts.uids
        if is_sticky:
            return is_writable_by_others(facts, self.accounts, _acl_of(self.here, facts))
        try:
            _judge(self.path, str(self.place), self.here, self.accounts)
        except NotTrusted:
            if self.strictly:
                raise
            self.is_foreign = True
        return False

    def _judge_part(self, facts: os.stat_result, parent: Path, *, shared: bool) -> None:
        """A link, or what lies where others may write: is it one of ours, and not only by a second name?"""
        is_link = stat.S_ISLNK(facts.st_mode)
        if self.is_foreign and is_link:
            raise NotTrusted(self.path, f"{self.place} is a link in a directory of others, and could lead anywhere")
        if not self.strictly and not is_link:
            return
        if facts.st_uid not in self.accounts.uids:
            raise _foreign(self.path, self._named(), facts.st_uid, self.accounts)
        if shared and not stat.S_ISDIR(facts.st_mode) and facts.st_nlink > 1:
            sentence = f"{self._named()} has a second name, and others may make one in {parent}"
            raise NotTrusted(self.path, sentence)

    def _named(self) -> str:
        return "it" if self.place == self.path else str(self.place)

    def _find(self, name: str) -> int:
        try:
            return os.open(name, _LOOK, dir_fd=self.here)
        except FileNotFoundError:
            if self.make is None:
                raise
        try:
            os.mkdir(name, 0o700, dir_fd=self.here)
        except FileExistsError:
            return os.open(name, _LOOK, dir_fd=self.here)  # somebody was faster: it is judged like any other
        made = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=self.here)
        try:
            os.fchmod(made, self.make)  # whatever the umask
            return os.open(".", _LOOK, dir_fd=made)
        finally:
            os.close(made)


def _judge(path: Path, part: str, found: int, accounts: Accounts) -> None:
    """Raise NotTrusted where what was opened is another account's, or another may write to it."""
    facts = os.fstat(found)
    if facts.st_uid not in accounts.uids:
        raise _foreign(path, part, facts.st_uid, accounts)
    if is_writable_by_others(facts, accounts, _acl_of(found, facts)):
        if part == "it" and not stat.S_ISDIR(facts.st_mode):
            raise NotTrusted(path, "others may write to it, and so decide what the agent runs; chmod go-w")
        place = path if part == "it" else part
        raise NotTrusted(path, f"others may write to {place}, and so replace what lies in it; chmod go-w {place}")


def _foreign(path: Path, part: str, uid: int, accounts: Accounts) -> NotTrusted:
    sentence = f"{part} belongs to uid {uid}, who so decides what is in it: it has to belong to {accounts.named}"
    return NotTrusted(path, sentence, owner_uid=uid)


def _acl_of(found: int, facts: os.stat_result) -> bytes:
    """The access list of what was opened, where it can matter."""
    if not facts.st_mode & stat.S_IWGRP:
        return b""
    try:
        return os.getxattr(f"/proc/self/fd/{found}", _ACL)
    except OSError:  # it has none, or its file system knows none
        return b""
