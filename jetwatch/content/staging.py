"""Writes files, directories and links below one empty directory, such that no name can lead out of it.

The rule: every name is opened relative to the descriptor of its own directory, never followed, never written twice;
symlinks are made last, so nothing is ever written through one. What a name may look like is said here once, for
archives, directories and whoever else takes names from a stranger. Reading what is to be written is left to others.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType

from jetwatch.content.source import ContentError, ContentRetry, ContentStalled, Limits

Parts = tuple[bytes, ...]
"""A name below the directory, as the bytes between its slashes."""

COMPONENT_BYTES = 255
LINK_BYTES = 4095
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NEW_FILE = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_THROUGH_A_DESCRIPTOR = re.compile(r"/proc/self/fd/\d+")
_has_control = re.compile(rb"[\x00-\x1f\x7f]").search
# Everything of a network, of a mount that is not there, of a machine short of something: it may pass.
_ASK_AGAIN = frozenset(
    {
        *(errno.ENOENT, errno.ESTALE, errno.EIO, errno.EREMOTEIO, errno.ETIMEDOUT, errno.EAGAIN, errno.EBUSY),
        *(errno.ENOSPC, errno.EDQUOT, errno.ENOMEM, errno.EMFILE, errno.ENFILE, errno.EINTR, errno.ENOTCONN),
        *(errno.EHOSTDOWN, errno.EHOSTUNREACH, errno.ENETDOWN, errno.ENETUNREACH, errno.ESHUTDOWN),
        *(errno.ECONNABORTED, errno.ECONNREFUSED, errno.ECONNRESET),
    }
)


def shown(name: str | bytes) -> str:
    """A name as one printable line of at most about 200 characters, in quotes."""
    text = name.decode("utf-8", "surrogateescape") if isinstance(name, bytes) else name
    said = repr(text)
    return said if len(said) <= 200 else f"{said[:120]}…{said[-70:]}"


def path_error(error: OSError, place: str | os.PathLike[str]) -> ContentError:
    """What an error of the operating system at `place` means for content: ask again, or tell a person."""
    said = f"{_named(os.fspath(place))}: {os.strerror(error.errno) if error.errno else error}"
    return ContentRetry(said) if error.errno in _ASK_AGAIN else ContentStalled(said)


def _named(place: str) -> str:
    """A path that goes through a descriptor, by the name that the directory has now."""
    opened = _THROUGH_A_DESCRIPTOR.match(place)
    if opened is None:
        return place
    try:
        return f"{Path(opened[0]).readlink()}{place[opened.end() :]}"
    except OSError:
        return place


def parts_of(name: str | bytes, limits: Limits) -> Parts:
    """The parts of a relative name; `()` is the directory itself (`.`, `./`). One leading `./` is understood.

    Raises ContentStalled, with the name, for what could mean another place to somebody else: absolute, `..`, empty or
    `.` parts, control characters, parts longer than a file system takes, too deep.
    """
    raw = name if isinstance(name, bytes) else name.encode("utf-8", "surrogateescape")
    if raw in (b".", b"./"):
        return ()
    parts = tuple(raw.removeprefix(b"./").split(b"/"))
    if reason := _wrong(raw, parts, limits):
        raise ContentStalled(f"the name {shown(name)} {reason}")
    return parts


def _wrong(raw: bytes, parts: Parts, limits: Limits) -> str:
    """What is wrong with a name, as the end of a sentence; empty where nothing is."""
    reason = ""
    if not raw:
        reason = "is empty"
    elif raw.startswith(b"/"):
        reason = "is absolute; only names relative to the content are taken"
    elif b".." in parts:
        reason = "has a part `..`"
    elif b"" in parts or b"." in parts:
        reason = "has an empty part or a part `.`"
    elif _has_control(raw):
        reason = "has a control character"
    elif max(map(len, parts)) > COMPONENT_BYTES:
        reason = f"has a part longer than {COMPONENT_BYTES} bytes"
    elif len(parts) > limits.depth:
        reason = f"is deeper than {limits.depth} directories"
    return reason


def check_link(parts: Parts, target: bytes) -> None:
    """Raise ContentStalled unless a symlink `parts` to `target` stays inside, whatever other links there are.

    `..` may stand at the start only: there it goes up real directories, as the link itself lies in one. After a name
    it could go up from wherever another link leads.
    """
    steps = [step for step in target.split(b"/") if step not in (b"", b".")]
    up = next((index for index, step in enumerate(steps) if step != b".."), len(steps))
    name = shown(b"/".join(parts))
    if not target or len(target) > LINK_BYTES or _has_control(target):
        raise ContentStalled(f"the symlink {name} has no proper target")
    if target.startswith(b"/") or up > len(parts) - 1:
        raise ContentStalled(f"the symlink {name} leads out of the content, to {shown(target)}")
    if b".." in steps[up:]:
        raise ContentStalled(f"the symlink {name} has `..` after a name, in {shown(target)}; write it shorter")


class Staging:
    """A directory that is being filled. Leaving the `with` closes its descriptors; `finish` completes the tree.

    `files`, `entries` (with directories), `total_bytes`: what was written so far. Every method raises ContentError with
    the entry's name.
    """

    def __init__(self, root: Path, limits: Limits) -> None:
        self.files = 0
        self.total_bytes = 0
        self._limits = limits
        self.entries = 0
        self._links: dict[Parts, bytes] = {}
        self._directories: dict[Parts, tuple[int, int]] = {}
        try:
            by_descriptor = _THROUGH_A_DESCRIPTOR.fullmatch(str(root))  # a kind of link, and the only one that will do
            self._open = [os.open(root, _DIRECTORY & ~os.O_NOFOLLOW if by_descriptor else _DIRECTORY)]
        except OSError as error:
            raise path_error(error, root) from None
        self._at: list[bytes] = []

    def __enter__(self) -> Staging:
        """Itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close every descriptor."""
        while self._open:
            os.close(self._open.pop())

    def file(self, parts: Parts, chunks: Iterable[bytes | memoryview], mode: int, mtime_ns: int) -> None:
        """Write one new file. Only the permission bits of `mode` are used."""
        descriptor = self.create(parts)
        try:
            for chunk in chunks:
                self.count_bytes(parts, len(chunk))
                write_all(descriptor, chunk)
            self.seal(descriptor, mode, mtime_ns)
        except OSError as error:
            raise path_error(error, shown(b"/".join(parts))) from None
        finally:
            os.close(descriptor)

    def create(self, parts: Parts) -> int:
        """A descriptor of a new, empty file, for the caller to write, read back and close."""
        if not parts:
            raise ContentStalled("a file stands where the content's own directory is")
        directory = self._enter(parts[:-1])
        self._count_entry(parts)
        if parts in self._links:
            raise _twice(parts)
        try:
            descriptor = os.open(parts[-1], _NEW_FILE, 0o600, dir_fd=directory)
        except FileExistsError:
            raise _twice(parts) from None
        except OSError as error:
            raise path_error(error, shown(b"/".join(parts))) from None
        self.files += 1
        return descriptor

    def seal(self, descriptor: int, mode: int, mtime_ns: int) -> None:
        """Give a written file its permission bits (never setuid, setgid or sticky) and its time."""
        os.fchmod(descriptor, mode & 0o777)
        os.utime(descriptor, ns=(mtime_ns, mtime_ns))

    def directory(self, parts: Parts, mode: int, mtime_ns: int) -> None:
        """Make a directory, or say what mode and time one that was implied shall have. Its owner can always enter."""
        if not parts:
            return
        if parts in self._directories:
            raise _twice(parts)
        self._enter(parts)
        self._directories[parts] = ((mode & 0o777) | 0o700, mtime_ns)

    def link(self, parts: Parts, target: bytes) -> None:
        """Remember a symlink, which `finish` makes."""
        if not parts:
            raise ContentStalled("a symlink stands where the content's own directory is")
        check_link(parts, target)
        self._enter(parts[:-1])
        self._count_entry(parts)
        if parts in self._links:
            raise _twice(parts)
        self._links[parts] = target

    def count_bytes(self, parts: Parts, count: int) -> None:
        """Count bytes that are about to be written, up to the limit."""
        self.total_bytes += count
        if self.total_bytes > self._limits.total_bytes:
            name = shown(b"/".join(parts))
            raise ContentStalled(f"{name}: the content is larger than the limit of {self._limits.total_bytes} bytes")

    def finish(self) -> None:
        """Make the links, and then give the directories their modes and times, the deepest first."""
        parts: Parts = ()
        try:
            for parts, target in self._links.items():
                os.symlink(target, parts[-1], dir_fd=self._enter(parts[:-1]))
                self.files += 1
            for parts in sorted(self._directories, key=len, reverse=True):
                mode, mtime_ns = self._directories[parts]
                self.seal(self._enter(parts), mode, mtime_ns)
        except FileExistsError:
            raise _twice(parts) from None
        except OSError as error:
            raise path_error(error, shown(b"/".join(parts))) from None

    def _enter(self, parts: Parts) -> int:
        """The descriptor of a directory, made where it is missing. It stays open until another branch is entered."""
        same = 0
        for have, wanted in zip(self._at, parts, strict=False):
            if have != wanted:
                break
            same += 1
        while len(self._at) > same:
            self._at.pop()
            os.close(self._open.pop())
        for depth in range(same, len(parts)):
            self._open.append(self._descend(parts[: depth + 1]))
            self._at.append(parts[depth])
        return self._open[-1]

    def _descend(self, parts: Parts) -> int:
        name = parts[-1]
        if parts in self._links:
            raise ContentStalled(f"{shown(b'/'.join(parts))} is a symlink and also a directory with entries")
        try:
            os.mkdir(name, 0o755, dir_fd=self._open[-1])
        except FileExistsError:
            pass
        except OSError as error:
            raise path_error(error, shown(b"/".join(parts))) from None
        else:
            self._count_entry(parts)
        try:
            return os.open(name, _DIRECTORY, dir_fd=self._open[-1])
        except OSError as error:
            if error.errno in (errno.ENOTDIR, errno.ELOOP):
                raise ContentStalled(f"{shown(b'/'.join(parts))} is a file and also a directory") from None
            raise path_error(error, shown(b"/".join(parts))) from None

    def _count_entry(self, parts: Parts) -> None:
        self.entries += 1
        if self.entries > self._limits.entries:
            raise ContentStalled(f"{shown(b'/'.join(parts))}: more than {self._limits.entries} entries")


def _twice(parts: Parts) -> ContentStalled:
    return ContentStalled(f"{shown(b'/'.join(parts))} stands twice in the content")


def write_all(descriptor: int, chunk: bytes | memoryview) -> None:
    """Write all of it."""
    written = os.write(descriptor, chunk)
    while written < len(chunk):  # a signal, or nearly full
        written += os.write(descriptor, memoryview(chunk)[written:])
