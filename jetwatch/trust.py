"""What is trusted by its place: who owns it, who else may write to it, and the same of every directory above it.

The rule is that of sshd's StrictModes: each part of a path belongs to root or to an account that is trusted here, and
nobody else may write to it. Where a directory has the sticky bit (/tmp), others may write if the part below is ours. A
path is walked from `/` by descriptors. A link is followed by hand, and the directory that it lies in was judged before.
So where a walk ends well, no other account can change what the path leads to. Where files are only written by
descriptor, directories may be of others (`enter`): then none of their links is followed.
"""

from __future__ import annotations

import errno
import os
import stat
import struct
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from msgspec import Struct

from jetwatch.errors import LinkOfOthers, NotTrusted

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


class Place(Struct, frozen=True):
    """An open directory (O_PATH). `ours`: no other account can rename what of ours is in it, or the way to it."""

    fd: int
    ours: bool

    def __enter__(self) -> Place:
        """Itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close it."""
        os.close(self.fd)

    def below(self, fd: int) -> Place:
        """A directory right in it, which was opened as `fd` and not by a link."""
        try:
            _judge_directory(Path(), "it", fd, Accounts.own())
        except NotTrusted:
            return Place(fd, ours=False)
        return Place(fd, self.ours)


def is_private(facts: os.stat_result, *uids: int) -> bool:
    """Whether it is a directory of one of these accounts that nobody else may write to, and no group at all."""
    is_closed = not facts.st_mode & (stat.S_IWGRP | stat.S_IWOTH)  # the group's bits are the mask of an access list
    return stat.S_ISDIR(facts.st_mode) and facts.st_uid in uids and is_closed


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
    found = look_up(path, accounts)
    try:
        _judge(path, "it", found, accounts)
    finally:
        os.close(found)


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
    return _walk(_Walk(path, accounts, make), inside=True).fd


def enter(path: Path, *, make_missing: bool = False) -> Place:
    """A directory that may belong to others, but over no link that they could have put there.

    For what is done there by descriptor: others get no say in where that is. `make_missing`: what is missing of it is
    made, with the mode that the umask leaves. Raises LinkOfOthers, OSError.
    """
    return _walk(_Walk(path, Accounts.own(), 0o777 if make_missing else None, strictly=False), inside=True)


def look_up(path: Path, accounts: Accounts, make: int | None = None) -> int:
    """A descriptor (O_PATH) of what `path` leads to. All above it was judged, the thing itself is left to the caller.

    Directories that are missing are made with the mode `make`, if one is given. Raises NotTrusted, OSError.
    """
    return _walk(_Walk(path, accounts, make)).fd


def _walk(walk: _Walk, *, inside: bool = False) -> Place:
    """To the end of its path. `inside`: that is a directory, and judged as those above it."""
    try:
        while walk.left:
            walk.step()
        if inside:
            walk.arrive()
    except OSError as error:
        walk.close()
        error.filename = str(walk.place)
        raise
    except BaseException:
        walk.close()
        raise
    return Place(walk.here, walk.ours)


class _Walk:
    """One walk. `here`: where it is, by descriptor; `place`: the same in words; `left`: the parts ahead, the next last.

    `ours`: no other account can change the way that led here. A strict walk ends where one could.
    """

    def __init__(self, path: Path, accounts: Accounts, make: int | None, *, strictly: bool = True) -> None:
        self.path = path.absolute()
        self.accounts = accounts
        self.make = make
        self.strictly = strictly
        self.left = list(reversed(self.path.parts[1:]))
        self.place = Path("/")
        self.here = os.open("/", _LOOK | os.O_DIRECTORY)
        self.links = 0
        self.ours = True

    def close(self) -> None:
        """Give the descriptor back."""
        os.close(self.here)

    def arrive(self) -> None:
        """What the path leads to has to be a directory, and is judged."""
        if not stat.S_ISDIR(os.fstat(self.here).st_mode):
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
        self._judge_here()

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
        """As `_judge_directory`; a walk that is not strict goes on."""
        try:
            return _judge_directory(self.path, self._named(), self.here, self.accounts)
        except NotTrusted:
            if self.strictly:
                raise
            self.ours = False
            return False

    def _judge_part(self, facts: os.stat_result, parent: Path, *, shared: bool) -> None:
        """A link, or what lies where others may write: is it one of ours, and not only by a second name?"""
        is_foreign = facts.st_uid not in self.accounts.uids
        has_second_name = shared and not stat.S_ISDIR(facts.st_mode) and facts.st_nlink > 1
        if not self.strictly:
            if stat.S_ISLNK(facts.st_mode) and (is_foreign or has_second_name or not self.ours):
                raise LinkOfOthers(self.path, self.place)
            return
        if is_foreign:
            raise _foreign(self.path, self._named(), facts.st_uid, self.accounts)
        if has_second_name:
            sentence = f"{self._named()} has a second name, and others may make one in {parent}"
            raise NotTrusted(self.path, sentence)

    def _named(self) -> str:
        return "it" if self.place == self.path else str(self.place)

    def _find(self, name: str) -> int:
        try:
            return self._open(name)
        except FileNotFoundError:
            if self.make is None:
                raise
        try:
            os.mkdir(name, 0o700 if self.strictly else self.make, dir_fd=self.here)
        except FileExistsError:
            return self._open(name)  # somebody was faster: it is judged like any other
        if not self.strictly:
            return self._open(name)  # others may have put another one in its place: no mode of it is ours to set
        made = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=self.here)
        try:
            os.fchmod(made, self.make)  # whatever the umask
            return os.open(".", _LOOK, dir_fd=made)
        finally:
            os.close(made)

    def _open(self, name: str) -> int:
        try:
            return os.open(name, _LOOK | os.O_DIRECTORY, dir_fd=self.here)  # only so is a disk mounted on demand
        except NotADirectoryError:
            return os.open(name, _LOOK, dir_fd=self.here)


def _judge_directory(path: Path, part: str, found: int, accounts: Accounts) -> bool:
    """Whether others may write to it, as to /tmp. Raises NotTrusted where they could so replace what is ours in it."""
    facts = os.fstat(found)
    if facts.st_mode & stat.S_ISVTX and facts.st_uid in accounts.uids:
        return is_writable_by_others(facts, accounts, _acl_of(found, facts))
    _judge(path, part, found, accounts)
    return False


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
