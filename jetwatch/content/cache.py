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
import secrets
import stat
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from jetwatch.content.source import ContentStalled
from jetwatch.content.staging import path_error, write_all

MOST_BYTES = 4 * 1024**3
_FICLONE = 0x40049409  # linux/fs.h: _IOW(0x94, 9, int)
_CLONE_FROM_BYTES = 64 * 1024  # below, a copy costs less than sharing an extent
_CHUNK_BYTES = 1024**2
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC
_NEW = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_NO_CLONE = (errno.EOPNOTSUPP, errno.ENOTTY, errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EPERM)
_UNUSED_S = 30 * 86_400.0
_TORN_S = 86_400.0
_VERSION = 1


@dataclass(frozen=True, slots=True)
class Kept:
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
        self._objects = directory / "objects"
        self._sources = directory / "sources"
        self._most_bytes = most_bytes
        self._clones = True
        try:
            for path in (directory, self._objects, self._sources):
                path.mkdir(mode=0o700, exist_ok=True)
                _check_private(path)
        except OSError as error:
            raise path_error(error, directory) from None

    def known(self, source: str) -> dict[str, Kept]:
        """What the fetch before put down for this source (its URL and whatever else tells it apart); may be empty."""
        path = self._manifest(source)
        try:
            document = json.loads(path.read_bytes())
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
        with contextlib.suppress(OSError), _new_file(self._manifest(source)) as (descriptor, replace):
            write_all(descriptor, document)
            replace()

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
            os.utime(source)
            if self._copy(source, descriptor) == (sha256, size_bytes):
                return True
        finally:
            os.close(source)
        kept.unlink(missing_ok=True)
        os.ftruncate(descriptor, 0)
        os.lseek(descriptor, 0, os.SEEK_SET)
        return False

    def keep(self, descriptor: int, sha256: str) -> bool:
        """Keep the bytes of an open file. False: there is no space, or they have another digest; that is no error."""
        kept = self._object(sha256)
        if kept.exists():
            return True
        try:
            kept.parent.mkdir(mode=0o700, exist_ok=True)
            with _new_file(kept) as (copy, replace):
                os.lseek(descriptor, 0, os.SEEK_SET)
                right = self._copy(descriptor, copy)[0] == sha256
                if right:
                    replace()
                return right
        except OSError:
            return False

    def trim(self) -> None:
        """Remove what was used least lately, down to the bound, and what was left half-written or unused for long."""
        found: list[tuple[float, int, Path]] = []
        now = time.time()
        for path in [*self._sources.iterdir(), *self._objects.glob("??/*")]:
            with contextlib.suppress(OSError):
                facts = path.stat(follow_symlinks=False)
                age_s = now - facts.st_mtime
                if age_s > _UNUSED_S or (path.name.startswith(".") and age_s > _TORN_S):
                    path.unlink()
                else:
                    found.append((facts.st_mtime, facts.st_size, path))
        total = sum(size for _, size, _ in found)
        for _, size, path in sorted(found):
            if total <= self._most_bytes:
                return
            path.unlink(missing_ok=True)
            total -= size

    def _copy(self, source: int, copy: int) -> tuple[str, int]:
        """Copy into an empty file; digest and size of what that has now."""
        if self._clones and os.fstat(source).st_size >= _CLONE_FROM_BYTES and self._clone(source, copy):
            return _digest(copy, None)
        return _digest(source, copy)

    def _clone(self, source: int, copy: int) -> bool:
        try:
            fcntl.ioctl(copy, _FICLONE, source)
        except OSError as error:
            if error.errno not in _NO_CLONE:
                raise
            self._clones = False  # this file system, or this pair of them, never will
            return False
        return True

    def _object(self, sha256: str) -> Path:
        if len(sha256) != 64 or not sha256.isalnum():
            raise ValueError(f"no sha256: {sha256!r}")
        return self._objects / sha256[:2] / sha256

    def _manifest(self, source: str) -> Path:
        return self._sources / f"{hashlib.sha256(source.encode()).hexdigest()}.json"


@contextlib.contextmanager
def _new_file(path: Path) -> Iterator[tuple[int, Callable[[], object]]]:
    """Lend a descriptor, and what puts the file in the place of `path`; without that nothing stays."""
    torn = path.with_name(f".{secrets.token_hex(8)}")
    descriptor = os.open(torn, _NEW, 0o600)
    try:
        yield descriptor, lambda: torn.rename(path)
    finally:
        os.close(descriptor)
        torn.unlink(missing_ok=True)


def _digest(source: int, copy: int | None) -> tuple[str, int]:
    """Digest and size of what is read from `source`, and written to `copy` where there is one."""
    digest = hashlib.sha256()
    size = 0
    while piece := os.read(source, _CHUNK_BYTES):
        digest.update(piece)
        size += len(piece)
        if copy is not None:
            write_all(copy, piece)
    return digest.hexdigest(), size


def _check_private(path: Path) -> None:
    facts = path.stat(follow_symlinks=False)
    if not stat.S_ISDIR(facts.st_mode) or facts.st_uid != os.geteuid() or facts.st_mode & 0o022:
        raise ContentStalled(
            f"{path}: expected a directory of user {os.geteuid()} that nobody else may write to; "
            "what is in it decides what a fetch delivers"
        )
