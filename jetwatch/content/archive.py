"""Unpacks tar, tar.gz, tar.zst and zip archives that a stranger may have made, strictly and within limits.

The rule: the tree that the archive describes, exactly, or ContentStalled with the entry's name; nothing outside the
directory either way (what was written inside is for the caller to remove). The kind is told by the first bytes, not by
a name. Everything is streamed; members are walked in `tar_entries.py` and `zip_entries.py`, written by `staging.py`.
"""

from __future__ import annotations

import gzip
import os
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, BinaryIO, Protocol, cast

from msgspec import Struct

from jetwatch.content.source import ContentError, ContentRetry, ContentStalled, Limits
from jetwatch.content.staging import Staging, path_error

Check = Callable[[], None]
"""Called between pieces of work, at least once per megabyte and per entry; raises to end the extraction."""

CHUNK_BYTES = 256 * 1024
FREE_BYTES = 64 * 1024**2
"""Up to here any ratio of unpacked to packed will do: small archives of zeros are no bombs."""

_WINDOW_BYTES = 128 * 1024**2  # what `zstd --ultra -22` needs; a frame may ask for gigabytes
_GZIP = b"\x1f\x8b"
_ZSTD = b"\x28\xb5\x2f\xfd"
_ZIP = (b"PK\x03\x04", b"PK\x05\x06")  # with entries, and empty


class Extracted(Struct, frozen=True):
    """What an extraction wrote. `files` counts symlinks too, and no directories."""

    files: int
    total_bytes: int


class Readable(Protocol):
    """What bytes are read from."""

    def read(self, size: int, /) -> bytes:
        """At most `size` bytes, none at the end."""


def extract(file: BinaryIO, into: Path, *, name: str, limits: Limits, check: Check) -> Extracted:
    """Unpack the archive in the open, seekable `file` into the empty directory `into`.

    `name` is the archive's own, for messages. Raises ContentStalled where the archive is damaged, refused or beyond
    `limits`, ContentRetry where it is empty or the disk is full, and whatever `check` raises.
    """
    try:
        with Staging(into, limits) as staging:
            _unpack(file, staging, limits, check)
            if not staging.entries:  # what a torn write leaves, a file of zeros, is a valid tar of nothing
                raise ContentRetry("nothing there yet (no entry in it)")
            staging.finish()
            return Extracted(staging.files, staging.total_bytes)
    except ContentError as error:
        error.args = (f"{name}: {error}",)
        raise
    except OSError as error:
        raise path_error(error, name) from None


def mtime_ns(seconds: float) -> int:
    """A time from an archive, clamped to between 1970 and now: it may be anything, not a number too."""
    now_ns = time.time_ns()
    if not seconds < now_ns / 1e9:
        return now_ns
    return int(max(0.0, seconds) * 1e9)


def _unpack(file: BinaryIO, staging: Staging, limits: Limits, check: Check) -> None:
    magic = file.read(4)
    packed_bytes = file.seek(0, os.SEEK_END)
    file.seek(0)
    meter = Meter(packed_bytes, limits, check)
    if magic in _ZIP:
        from jetwatch.content.zip_entries import unpack_zip

        unpack_zip(file, packed_bytes, staging, limits, meter)
        return
    from jetwatch.content.tar_entries import unpack_tar

    unpacked = _gunzip(file) if magic.startswith(_GZIP) else _unzstd(file) if magic == _ZSTD else _plain(file)
    unpack_tar(meter.pieces(unpacked), staging, limits, meter)


class Meter:
    """Counts what comes out of an archive, refuses what is too much for its size, and asks `check` as it goes."""

    def __init__(self, packed_bytes: int, limits: Limits, check: Check) -> None:
        self.check = check
        self._unpacked_bytes = 0
        self._most_bytes = max(FREE_BYTES, int(packed_bytes * limits.ratio))
        self._ratio = limits.ratio

    def count(self, size_bytes: int) -> None:
        """Count bytes that were unpacked."""
        self.check()
        self._unpacked_bytes += size_bytes
        if self._unpacked_bytes > self._most_bytes:
            raise ContentStalled(f"unpacks to more than {self._ratio:g} times its size: refused as a bomb")

    def pieces(self, source: Iterator[bytes]) -> Iterator[bytes]:
        """The same pieces, counted."""
        for piece in source:
            self.count(len(piece))
            yield piece


def _plain(file: Readable) -> Iterator[bytes]:
    while piece := file.read(CHUNK_BYTES):
        yield piece


def _gunzip(file: BinaryIO) -> Iterator[bytes]:
    with gzip.GzipFile(fileobj=file, mode="rb") as unpacked:
        try:
            yield from _plain(unpacked)
        except (gzip.BadGzipFile, EOFError, zlib.error) as error:
            raise ContentStalled(f"is damaged: gzip: {error}") from None


def _unzstd(file: BinaryIO) -> Iterator[bytes]:
    """The unpacked bytes; an archive that ends within a frame is an error.

    The library does not tell where it stopped, so a frame of our own follows the last one: only if that comes out whole
    and at the very end was the archive complete. Its text is random and, in the frame, compressed and followed by a
    checksum: no torn frame can show it by chance, nor by intent.
    """
    import zstandard

    mark = os.urandom(16) * 4
    compressor = zstandard.ZstdCompressor(write_checksum=True)
    tail = cast(IO[bytes], _Then(file, compressor.compress(mark)))
    decompressor = zstandard.ZstdDecompressor(max_window_size=_WINDOW_BYTES)
    held = b""
    try:
        with decompressor.stream_reader(
            tail, read_size=CHUNK_BYTES, read_across_frames=True, closefd=False
        ) as unpacked:
            for piece in _plain(unpacked):
                held += piece
                if len(held) > len(mark):
                    yield held[: -len(mark)]
                    held = held[-len(mark) :]
    except zstandard.ZstdError as error:
        raise ContentStalled(f"is damaged, or needs a window over 128 MiB: zstd: {error}") from None
    if held != mark:
        raise ContentStalled("is damaged: zstd: the last frame is cut short")


class _Then:
    """A file, and some bytes after it."""

    def __init__(self, file: Readable, after: bytes) -> None:
        self._file = file
        self._after = after

    def read(self, size: int = -1) -> bytes:
        """At most `size` bytes."""
        if piece := self._file.read(size):
            return piece
        after, self._after = self._after, b""
        return after
