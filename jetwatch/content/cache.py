"""Bytes that were fetched once, kept to be used again: by digest, in a private directory, given out as copies.

The rule: a digest is verified on every byte that is given out, as it is written, so a spoilt file is a missing one and
is fetched anew. Copies share extents where the file system can (reflink) and are never hard links: a play may write
into its directory. Which key of a source had which digest stands in one manifest per source; using it is left to that.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from msgspec import Struct

from jetwatch.content.places import enter
from jetwatch.content.source import ContentStalled
from jetwatch.content.staging import path_error, write_all
from jetwatch.trust import is_private

MOST_BYTES = 4 * 1024**3
_FICLONE = 0x40049409  # linux/fs.h: _IOW(0x94, 9, int)
_CLONE_FROM_BYTES = 64 * 1024  # below, a copy costs less than sharing an extent
_CHUNK_BYTES = 1024**2
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC
_NEW = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_NO_CLONE = (errno.EOPNOTSUPP, errno.ENOTTY, errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EPERM)
_UNUSED_S = 30 * 86_400.0
_SAME_USE_S = 3600.0  # a use is written down to the hour: once per file and fetch would cost as much as reading it
_TORN_S = 86_400.0
_VERSION = 1


class Kept(Struct, frozen=True):
    """What a key of a source held when it was fetched. `etag` is whatever the source compares by."""

    size_bytes: int
    etag: str
    sha256: str


class Cache:
    """A directory of files by their sha256. Several fetches may use it at the same time; also from threads.

    Raises ContentStalled where the directory is somebody else's or others may write to it: who can write a manifest
    says what an unchanged file is.
    """

    def __init__(self, directory: Path, most_bytes: int = MOST_BYTES) -> None:
        self._objects = str(directory / "objects")
        self._sources = str(directory / "sources")
        self._most_bytes = most_bytes
        self._clones = True
        self._made: set[str] = set()
        try:
            for path in (directory, directory / "objects", directory / "sources"):
                make_private(path)
        except OSError as error:
            raise path_error(error, directory) from None

    def known(self, source: str) -> dict[str, Kept]:
        """What the fetch before put down for this source (its URL and whatever else tells it apart); may be empty."""
        path = self._manifest(source)
        try:
            document = json.loads(Path(path).read_bytes())
            entries = {
                key: Kept(int(size), str(etag), str(sha256)) for key, (size, etag, sha256) in document["entries"]
            }
            os.utime(path)
        except (OSError, ValueError, KeyError, TypeError):
            return {}
        return entries if document.get("version") == _VERSION else {}

    def remember(self, source: str, entries: Mapping[str, Kept]) -> None:
        """Replace what is known of this source. A full disk only means that less is known."""
        rows = [(key, (kept.size_bytes, kept.etag, kept.sha256)) for key, kept in entries.items()]
        document = json.dumps({"version": _VERSION, "entries": rows}).encode()

        def write(descriptor: int) -> bool:
            write_all(descriptor, document)
            return True

        with contextlib.suppress(OSError):
            _put(self._manifest(source), write)

    def take(self, sha256: str, size_bytes: int, descriptor: int) -> bool:
        """Write these bytes into a new, empty file. False, with the file empty: they are not here, or were spoilt.

        The file is open for reading and writing. Raises OSError where it cannot be written.
        """
        kept = self._object(sha256)
        try:
            source = os.open(kept, _READ)
        except OSError:
            return False
        try:
            facts = os.fstat(source)
            if time.time() - facts.st_mtime > _SAME_USE_S:
                os.utime(source)
            if self._copy(source, facts.st_size, descriptor) == (sha256, size_bytes):
                return True
        finally:
            os.close(source)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(kept)
        os.ftruncate(descriptor, 0)
        os.lseek(descriptor, 0, os.SEEK_SET)
        return False

    def keep(self, descriptor: int, sha256: str, whole: bytes | memoryview | None = None) -> bool:
        """Keep the bytes of an open file. False: there is no space, or they have another digest; that is no error.

        `whole`: all of them, where they are at hand and `sha256` was made of them.
        """
        kept = self._object(sha256)
        if os.path.exists(kept):
            return True

        def write(copy: int) -> bool:
            if whole is not None and len(whole) < _CLONE_FROM_BYTES:
                write_all(copy, whole)
                return True
            os.lseek(descriptor, 0, os.SEEK_SET)
            return self._copy(descriptor, os.fstat(descriptor).st_size, copy)[0] == sha256

        try:
            self._make(self._part(sha256))
            return _put(kept, write)
        except OSError:
            return False

    def trim(self) -> None:
        """Remove what was used least lately, down to the bound, and what was left half-written or unused for long."""
        found: list[tuple[float, int, str]] = []
        now = time.time()
        for entry in [*_entries(self._sources), *(file for part in _entries(self._objects) for file in _entries(part))]:
            with contextlib.suppress(OSError):
                facts = entry.stat(follow_symlinks=False)
                age_s = now - facts.st_mtime
                if age_s > _UNUSED_S or (entry.name.startswith(".") and age_s > _TORN_S):
                    os.unlink(entry)
                else:
                    found.append((facts.st_mtime, facts.st_size, entry.path))
        total = sum(size for _, size, _ in found)
        for _, size, path in sorted(found):
            if total <= self._most_bytes:
                return
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)
            total -= size

    def _copy(self, source: int, size_bytes: int, copy: int) -> tuple[str, int]:
        """Copy a file of this size into an empty one; digest and size of what that has now."""
        if self._clones and size_bytes >= _CLONE_FROM_BYTES and self._clone(source, copy):
            return _digest(copy, size_bytes, None)
        return _digest(source, size_bytes, copy)

    def _clone(self, source: int, copy: int) -> bool:
        try:
            fcntl.ioctl(copy, _FICLONE, source)
        except OSError as error:
            if error.errno not in _NO_CLONE:
                raise
            self._clones = False  # this file system, or this pair of them, never will
            return False
        return True

    def _object(self, sha256: str) -> str:
        if len(sha256) != 64 or not sha256.isalnum():
            raise ValueError(f"no sha256: {sha256!r}")
        return f"{self._part(sha256)}/{sha256}"

    def _part(self, sha256: str) -> str:
        return f"{self._objects}/{sha256[:2]}"

    def _make(self, directory: str) -> None:
        if directory not in self._made:
            with contextlib.suppress(FileExistsError):
                os.mkdir(directory, 0o700)
            self._made.add(directory)

    def _manifest(self, source: str) -> str:
        return f"{self._sources}/{hashlib.sha256(source.encode()).hexdigest()}.json"


def _put(path: str, write: Callable[[int], bool]) -> bool:
    """Put what `write` writes into a new file in the place of `path`, if it says so; else nothing stays."""
    torn = f"{path.rpartition('/')[0]}/.{os.urandom(8).hex()}"
    descriptor = os.open(torn, _NEW, 0o600)
    done = False
    try:
        if write(descriptor):
            os.rename(torn, path)
            done = True
    finally:
        os.close(descriptor)
        if not done:
            os.unlink(torn)
    return done


def _entries(directory: str | os.DirEntry[str]) -> Iterator[os.DirEntry[str]]:
    with os.scandir(directory) as entries:
        yield from entries


def _digest(source: int, size_bytes: int, copy: int | None) -> tuple[str, int]:
    """Digest and size of what is read from `source`, and written to `copy` where there is one.

    `size_bytes` is what to expect: room for more than a file has costs more than reading a small one.
    """
    digest = hashlib.sha256()
    size = 0
    while piece := os.read(source, min(_CHUNK_BYTES, size_bytes + 1)):
        digest.update(piece)
        size += len(piece)
        if copy is not None:
            write_all(copy, piece)
    return digest.hexdigest(), size


def make_private(path: Path) -> None:
    """Make a directory if it is missing, and refuse one that another account could have a hand in.

    Raises ContentStalled: it, or one above it, belongs to somebody else or can be written by others, or it is a link.
    """
    with enter(path.parent) as above:
        with contextlib.suppress(FileExistsError):
            os.mkdir(path.name, 0o700, dir_fd=above.fd)
        facts = os.stat(path.name, dir_fd=above.fd, follow_symlinks=False)
    mine = is_private(facts, os.geteuid())
    if not mine or not above.ours:
        wrong = path if not mine else f"{path.parent} or a directory above it"
        raise ContentStalled(
            f"{wrong}: expected a directory of user {os.geteuid()} that nobody else may write to; "
            "what is in it decides what a fetch delivers"
        )
