"""The entries of a zip archive, walked strictly, in the order of their data.

`zipfile` parses the central directory and nothing else. Each entry's own header must say the same, its data must lie
where nobody else's does (overlapping entries make bombs), unpack to exactly the size and checksum that were promised,
and a data descriptor after it must not say anything else.
"""

from __future__ import annotations

import calendar
import stat
import struct
import zipfile
import zlib
from collections.abc import Iterator
from typing import IO, BinaryIO, cast

from jetwatch.content.archive import CHUNK_BYTES, Meter, mtime_ns
from jetwatch.content.source import ContentStalled, Limits
from jetwatch.content.staging import LINK_BYTES, Staging, parts_of, shown

_LOCAL = struct.Struct("<4s5H3L2H")
_ENTRY_MAGIC = b"PK\x01\x02"
_DIRECTORY_BYTES = 256 * 1024**2
_ENCRYPTED = 0x0001 | 0x0040 | 0x2000
_PATCH = 0x0020
_DESCRIPTOR = 0x0008
_UTF8 = 0x0800
_IN_EXTRA = 0xFFFFFFFF  # the size stands in a zip64 field; the central directory has it too
_UNIX = 3


def unpack_zip(file: BinaryIO, size_bytes: int, staging: Staging, limits: Limits, meter: Meter) -> None:
    """Write every entry into `staging`. Raises ContentStalled by the entry's name."""
    try:
        directory = zipfile.ZipFile(cast(IO[bytes], _Directory(file, limits)))
        entries = sorted(directory.infolist(), key=lambda entry: entry.header_offset)
        ends = [entry.header_offset for entry in entries[1:]] + [min(directory.start_dir, size_bytes)]
        for entry, end in zip(entries, ends, strict=False):
            meter.check()
            _write(_Entry(file, entry, end, meter), staging, limits)
    except (zipfile.BadZipFile, zlib.error, struct.error, EOFError, ValueError, NotImplementedError) as error:
        raise ContentStalled(f"is damaged, or no zip archive: {error}") from None


def _write(entry: _Entry, staging: Staging, limits: Limits) -> None:
    info = entry.info
    if "\\" in info.orig_filename:
        raise entry.refused("named with a backslash")
    kind = _kind(info)
    folder = kind == stat.S_IFDIR
    parts = parts_of(info.orig_filename.removesuffix("/") if folder else info.orig_filename, limits)
    when = mtime_ns(_seconds(info))
    mode = stat.S_IMODE(info.external_attr >> 16) if info.create_system == _UNIX else 0
    if folder:
        _nothing(entry)
        staging.directory(parts, mode or 0o755, when)
    elif kind == stat.S_IFLNK:
        staging.link(parts, _target(entry))
    elif kind == stat.S_IFREG:
        staging.file(parts, entry.data(), mode or 0o644, when)
    else:
        raise entry.refused("a device, a FIFO or another special file")


def _kind(info: zipfile.ZipInfo) -> int:
    """S_IFDIR, S_IFREG, S_IFLNK or another; 0 where name and mode do not agree."""
    kind = stat.S_IFMT(info.external_attr >> 16) if info.create_system == _UNIX else 0
    named = stat.S_IFDIR if info.orig_filename.endswith("/") else stat.S_IFREG
    if kind in (0, named):
        return named
    return 0 if stat.S_IFDIR in (kind, named) else kind


def _seconds(info: zipfile.ZipInfo) -> float:
    """The time of an entry, which names no zone: taken as UTC. Impossible dates become 1970."""
    try:
        return float(calendar.timegm((*info.date_time, 0, 0, 0)))
    except (ValueError, OverflowError):
        return 0.0


def _nothing(entry: _Entry) -> None:
    if entry.info.file_size or any(entry.data()):
        raise entry.refused("a directory and yet has data")


def _target(entry: _Entry) -> bytes:
    if entry.info.file_size > LINK_BYTES:
        raise entry.refused(f"a symlink with a target longer than {LINK_BYTES} bytes")
    return b"".join(entry.data())


class _Directory:
    """The file as `zipfile` sees it while it reads the central directory: a list of bounded length."""

    def __init__(self, file: BinaryIO, limits: Limits) -> None:
        self._file = file
        self._entries = limits.entries
        self.seek, self.tell = file.seek, file.tell

    def seekable(self) -> bool:
        """Always."""
        return True

    def read(self, size: int = -1) -> bytes:
        """At most `size` bytes. More entries than the limit are refused before there is an object for each."""
        found = self._file.read(_DIRECTORY_BYTES + 1 if size < 0 else min(size, _DIRECTORY_BYTES + 1))
        if len(found) > _DIRECTORY_BYTES or found.count(_ENTRY_MAGIC) > self._entries:
            raise ContentStalled(f"holds more than {self._entries} entries")
        return found


class _Entry:
    """One entry, from its own header to where the next one may begin (`end`)."""

    def __init__(self, file: BinaryIO, info: zipfile.ZipInfo, end: int, meter: Meter) -> None:
        self.info = info
        self._file = file
        self._end = end
        self._meter = meter

    def refused(self, what: str) -> ContentStalled:
        """The sentence that refuses this entry."""
        return ContentStalled(f"the entry {shown(self.info.orig_filename)} is {what}")

    def data(self) -> Iterator[bytes]:
        """The unpacked data, verified when it is complete."""
        start = self._begin()
        self._file.seek(start)
        count = checksum = 0
        for piece in self._inflated() if self.info.compress_type == zipfile.ZIP_DEFLATED else self._packed():
            count += len(piece)
            checksum = zlib.crc32(piece, checksum)
            self._meter.count(len(piece))
            if count > self.info.file_size:
                raise self.refused(f"larger than the {self.info.file_size} bytes that the archive says")
            yield piece
        if count != self.info.file_size or checksum != self.info.CRC:
            raise self.refused("damaged: another size or checksum than the archive says")
        if self.info.flag_bits & _DESCRIPTOR:
            self._check_descriptor(start + self.info.compress_size)

    def _begin(self) -> int:
        """Where the data begins. The entry's own header has to agree with the central directory."""
        info = self.info
        if info.flag_bits & (_ENCRYPTED | _PATCH):
            raise self.refused("encrypted, or a patch")
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise self.refused(f"packed by method {info.compress_type}; only stored and deflated entries are taken")
        self._file.seek(max(0, info.header_offset))
        header = self._file.read(_LOCAL.size)
        magic, _, flags, method, _, _, checksum, packed, size, name_bytes, extra_bytes = _LOCAL.unpack(header)
        name = self._file.read(name_bytes).decode("utf-8" if flags & _UTF8 else "cp437")
        same = (magic, flags, method, name) == (b"PK\x03\x04", info.flag_bits, info.compress_type, info.orig_filename)
        later = 0 if flags & _DESCRIPTOR else None  # said after the data
        sizes = packed in (info.compress_size, _IN_EXTRA, later) and size in (info.file_size, _IN_EXTRA, later)
        if not (same and sizes and checksum in (info.CRC, later)):
            raise self.refused("described in two ways that do not agree")
        start: int = info.header_offset + _LOCAL.size + name_bytes + extra_bytes
        if start + info.compress_size > self._end:
            raise self.refused("overlapping another one, or cut short")
        return start

    def _packed(self) -> Iterator[bytes]:
        left = self.info.compress_size
        while left:
            piece = self._file.read(min(left, CHUNK_BYTES))
            if not piece:
                raise self.refused("cut short")
            left -= len(piece)
            yield piece

    def _inflated(self) -> Iterator[bytes]:
        inflater = zlib.decompressobj(-zlib.MAX_WBITS)
        for packed in self._packed():
            if inflater.eof:
                raise self.refused("damaged: there is more than its data")
            piece = inflater.decompress(packed, CHUNK_BYTES)
            while piece:
                yield piece
                piece = inflater.decompress(inflater.unconsumed_tail, CHUNK_BYTES)
        if not inflater.eof or inflater.unused_data:
            raise self.refused("damaged: its data ends too early or too late")

    def _check_descriptor(self, at: int) -> None:
        info = self.info
        self._file.seek(at)
        found = self._file.read(max(0, min(24, self._end - at))).removeprefix(b"PK\x07\x08")
        told = (info.CRC, info.compress_size, info.file_size)
        short = struct.pack("<3L", *told) if max(told) <= 0xFFFFFFFF else b"no 32 bits"
        if not found.startswith((short, struct.pack("<L2Q", *told))):
            raise self.refused("followed by a descriptor that says otherwise")
