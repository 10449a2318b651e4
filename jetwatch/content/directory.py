"""Content in a directory or an archive file of this machine's file systems: `file:///dir`, `file:///file.tar.zst`.

A path may lie on a dead network mount, where a call blocks for ever and no deadline in this process can end it: run it
only in a child that is killed after its timeout. What is fetched is exactly what was listed: sizes and times are
compared file by file, and the listing again at the end.
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
import urllib.parse
from collections.abc import Iterator
from io import BufferedReader
from pathlib import Path

from msgspec import Struct
from msgspec.structs import replace

from jetwatch.content.archive import extract
from jetwatch.content.source import Content, ContentMoved, ContentRetry, ContentStalled, Fetched, Look, Progress
from jetwatch.content.staging import Parts, Staging, check_link, parts_of, path_error, shown, write_all

_COPY_BYTES = 4 * 1024**2
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC  # a FIFO put in a file's place must not block
_NO_SUCH_COPY = (errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM)
_ENTER = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_SPECIAL = {stat.S_IFIFO: "a FIFO", stat.S_IFSOCK: "a socket", stat.S_IFCHR: "a device", stat.S_IFBLK: "a device"}


class Item(Struct, frozen=True, order=True):
    """One entry of a listing. `target` is a symlink's, `digest` of a file's bytes where they count."""

    parts: Parts
    mode: int
    size_bytes: int
    mtime_ns: int
    target: bytes = b""
    digest: str = ""

    def line(self) -> bytes:
        """What of it makes a revision: a file's bytes where they were read, else its time; no directory's time."""
        folder = stat.S_ISDIR(self.mode)
        proof = self.digest or ("" if folder or self.target else f"{self.mtime_ns}")
        size = 0 if folder else self.size_bytes
        return b"%o %d %s %s\0%s\0" % (self.mode, size, proof.encode(), b"/".join(self.parts), self.target)


def path_of(content: Content) -> Path:
    """The path that a `file:` URL names."""
    return Path(urllib.parse.unquote(urllib.parse.urlsplit(content.url).path))


class DirectorySource:
    """Copies a directory. Without a marker, two equal listings make a revision; nothing is left out or followed."""

    def __init__(self, content: Content) -> None:
        self._content = content
        self._root = path_of(content)

    def look(self, known: Look | None, deadline_s: float) -> Look:  # noqa: ARG002 - the timeout is the child's
        """The marker's digest, or the listing's. It may block: see the top of this file."""
        if self._content.marker is not None:
            return Look(self._marker(self._content.marker))
        return Look(_revision(self._list(self._content.checksum)), settled=False)

    def fetch(self, revision: str, staging: Path, cache: Path | None, progress: Progress) -> Fetched:  # noqa: ARG002
        """Copy what is listed now, if that is `revision`. There is no cache: the disk is as near."""
        self._expect(revision, before=True)
        items = self._list(checksum=self._content.checksum)
        if self._content.marker is None and _revision(items) != revision:
            raise self._moved()
        total_bytes = sum(item.size_bytes for item in items if stat.S_ISREG(item.mode))
        with Staging(staging, self._content.limits) as target:
            for item in items:
                self._copy(item, target, total_bytes, progress)
            target.finish()
        progress(total_bytes, total_bytes)
        if self._list(checksum=False) != [_without_digest(item) for item in items]:
            raise self._moved()
        self._expect(revision, before=False)
        return Fetched(revision, target.files, target.total_bytes)

    def _expect(self, revision: str, *, before: bool) -> None:
        marker = self._content.marker
        if marker is not None and self._marker(marker) != revision:
            raise ContentMoved(f"{self._root}: the marker {'is another' if before else 'has changed'}")

    def _moved(self) -> ContentMoved:
        return ContentMoved(f"{self._root}: there is another revision by now")

    def _marker(self, key: str) -> str:
        parts = parts_of(key, self._content.limits)
        path = self._root / os.fsdecode(b"/".join(parts))
        try:
            with path.open("rb") as file:
                found = os.fstat(file.fileno())
                digest = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            raise path_error(error, path) from None
        return _digest(f"{digest} {found.st_size} {found.st_mtime_ns}".encode())

    def _list(self, checksum: bool) -> list[Item]:
        """Everything below the root, sorted by path: a directory before what is in it."""
        items: list[Item] = []
        try:
            root = os.open(self._root, _ENTER)
        except OSError as error:
            raise path_error(error, self._root) from None
        self._walk(root, checksum, items)
        if not any(not stat.S_ISDIR(item.mode) for item in items):
            raise ContentRetry(f"{self._root}: nothing there yet (no file in it); is it mounted?")
        return sorted(items)

    def _walk(self, root: int, checksum: bool, items: list[Item]) -> None:
        """Everything below the descriptor `root`, which is closed. As many are open as there are levels."""
        way: list[tuple[int, Parts, list[Parts]]] = [(root, (), [])]
        try:
            way[0][2].extend(self._directory(root, (), checksum, items))
            while way:
                descriptor, _, waiting = way[-1]
                if waiting:
                    parts = waiting.pop()
                    inner = os.open(parts[-1], _ENTER | os.O_NOFOLLOW, dir_fd=descriptor)
                    way.append((inner, parts, []))
                    way[-1][2].extend(self._directory(inner, parts, checksum, items))
                else:
                    os.close(way.pop()[0])
        except OSError as error:
            raise path_error(error, self._root / os.fsdecode(b"/".join(way[-1][1]))) from None
        finally:
            for descriptor, _, _ in way:
                os.close(descriptor)

    def _directory(self, descriptor: int, above: Parts, checksum: bool, items: list[Item]) -> list[Parts]:
        """Append what is in one directory; returns the directories among it."""
        folders = []
        with os.scandir(descriptor) as entries:
            for entry in entries:
                parts = parts_of(b"/".join((*above, os.fsencode(entry.name))), self._content.limits)
                item = self._item(descriptor, parts, checksum)
                items.append(item)
                if len(items) > self._content.limits.entries:
                    raise ContentStalled(f"{self._root}: more than {self._content.limits.entries} entries")
                if stat.S_ISDIR(item.mode):
                    folders.append(parts)
        return folders

    def _item(self, descriptor: int, parts: Parts, checksum: bool) -> Item:
        name = parts[-1]
        found = os.stat(name, dir_fd=descriptor, follow_symlinks=False)
        kind = stat.S_IFMT(found.st_mode)
        if kind in _SPECIAL:
            raise ContentStalled(f"{self._root}: {shown(b'/'.join(parts))} is {_SPECIAL[kind]}")
        target, digest = b"", ""
        if kind == stat.S_IFLNK:
            target = os.readlink(name, dir_fd=descriptor)
            check_link(parts, target)
        elif kind == stat.S_IFREG and checksum:
            with os.fdopen(os.open(name, _READ, dir_fd=descriptor), "rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
        mode = kind | (found.st_mode & 0o777)
        return Item(parts, mode, found.st_size, found.st_mtime_ns, target, digest)

    def _copy(self, item: Item, target: Staging, total_bytes: int, progress: Progress) -> None:
        if stat.S_ISDIR(item.mode):
            target.directory(item.parts, item.mode, item.mtime_ns)
        elif stat.S_ISLNK(item.mode):
            target.link(item.parts, item.target)
        else:
            path = self._root / os.fsdecode(b"/".join(item.parts))
            try:
                with os.fdopen(os.open(path, _READ), "rb") as file:
                    self._copy_file(file, item, target, total_bytes, progress)
            except FileNotFoundError:
                raise self._moved() from None
            except OSError as error:
                raise path_error(error, path) from None

    def _copy_file(
        self, file: BufferedReader, item: Item, target: Staging, total_bytes: int, progress: Progress
    ) -> None:
        found = os.fstat(file.fileno())
        if not stat.S_ISREG(found.st_mode) or (found.st_size, found.st_mtime_ns) != (item.size_bytes, item.mtime_ns):
            raise self._moved()
        if item.digest:
            target.file(item.parts, self._verified(file, item), item.mode, item.mtime_ns)
            progress(target.total_bytes, total_bytes)
            return
        copy = target.create(item.parts)
        try:
            for count in _copied(file.fileno(), copy, item.size_bytes):
                target.count_bytes(item.parts, count)
                progress(target.total_bytes, total_bytes)
            if os.fstat(copy).st_size != item.size_bytes:
                raise self._moved()
            target.seal(copy, item.mode, item.mtime_ns)
        finally:
            os.close(copy)

    def _verified(self, file: BufferedReader, item: Item) -> Iterator[bytes]:
        digest = hashlib.sha256()
        while piece := file.read(_COPY_BYTES):
            digest.update(piece)
            yield piece
        if digest.hexdigest() != item.digest:
            raise self._moved()


class FileSource:
    """Unpacks an archive file. Its revision is its size and time, or its bytes with `checksum`."""

    def __init__(self, content: Content) -> None:
        self._content = content
        self._path = path_of(content)

    def look(self, known: Look | None, deadline_s: float) -> Look:  # noqa: ARG002 - the timeout is the child's
        """By size and time it counts when a second look says the same. It may block: see the top of this file."""
        with self._opened() as file:
            return Look(self._revision(file), settled=False)

    def fetch(self, revision: str, staging: Path, cache: Path | None, progress: Progress) -> Fetched:  # noqa: ARG002
        """Unpack the archive if it is `revision` before and after. The file is opened once."""
        content = self._content
        with self._opened() as file:
            if self._revision(file) != revision:
                raise self._moved()
            size = os.fstat(file.fileno()).st_size
            if content.sha256 is not None and _file_digest(file) != content.sha256:
                raise ContentStalled(f"{self._path}: its sha256 is not {content.sha256}")
            check = _Furthest(file, size, progress)
            extracted = extract(file, staging, name=str(self._path), limits=content.limits, check=check)
            if self._revision(file) != revision:
                raise self._moved()
        return Fetched(revision, extracted.files, extracted.total_bytes)

    def _opened(self) -> BufferedReader:
        try:
            file = os.fdopen(os.open(self._path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb")
        except OSError as error:
            raise path_error(error, self._path) from None
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            file.close()
            raise ContentStalled(f"{self._path}: expected an archive; this is no regular file")
        return file

    def _revision(self, file: BufferedReader) -> str:
        try:
            if self._content.checksum:
                return _file_digest(file)
            found = os.fstat(file.fileno())
        except OSError as error:
            raise path_error(error, self._path) from None
        return _digest(f"{found.st_size} {found.st_mtime_ns} {found.st_ino}".encode())

    def _moved(self) -> ContentMoved:
        return ContentMoved(f"{self._path}: there is another revision by now")


class _Furthest:
    """Progress by how far a file was read; a zip is not read from front to back."""

    def __init__(self, file: BufferedReader, size: int, progress: Progress) -> None:
        self._file = file
        self._size = size
        self._progress = progress
        self._done = 0

    def __call__(self) -> None:
        """Tell it."""
        self._done = max(self._done, min(self._file.tell(), self._size))
        self._progress(self._done, self._size)


def _copied(source: int, target: int, size: int) -> Iterator[int]:
    """Copy `size` bytes, as a shared extent or within the file server where there is such a thing; yields counts."""
    left = size
    try:
        while left and (count := os.copy_file_range(source, target, min(left, _COPY_BYTES))):
            left -= count
            yield count
    except OSError as error:
        if error.errno not in _NO_SUCH_COPY:
            raise
    while left and (piece := os.read(source, min(left, _COPY_BYTES))):
        write_all(target, piece)
        left -= len(piece)
        yield len(piece)


def _file_digest(file: BufferedReader) -> str:
    file.seek(0)
    digest = hashlib.file_digest(file, "sha256").hexdigest()
    file.seek(0)
    return digest


def _revision(items: list[Item]) -> str:
    return _digest(b"".join(item.line() for item in items))


def _without_digest(item: Item) -> Item:
    return replace(item, digest="")


def _digest(said: bytes) -> str:
    return hashlib.sha256(said).hexdigest()
