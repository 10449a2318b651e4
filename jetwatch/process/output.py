"""The output of one command as frames on disk: head and tail within a cap, the middle counted.

A frame is a header (offset in the whole stream, boot time, length, flags) and that many bytes. The head goes to
`output`; what follows goes to `output.a` and `output.b` in turn, the older of the two being emptied for the newer, so
that memory and disk stay bounded and a supervisor that is killed loses nothing. Offsets are addresses: a gap between
two frames is what was dropped. Imports next to nothing: a supervisor loads it for every command.
"""

from __future__ import annotations

import os
import stat
import struct

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

HEADER = struct.Struct("<QQII")
LONGEST_FRAME_BYTES = 1024 * 1024
NAMES = ("output", "output.a", "output.b")
_FLAGS = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW


class Writer:
    """Appends what a command wrote. `total_bytes` were seen, `kept_bytes` can be read again."""

    def __init__(self, directory: str, keep_bytes: int) -> None:
        quarter = keep_bytes // 4
        self._directory = directory
        self._limits = (keep_bytes - 2 * quarter, quarter, quarter)
        self._used = [0, 0, 0]
        self._kept = [0, 0, 0]
        self._current = 0
        self._fds = [self._open(0)]
        self._length = 0
        self.total_bytes = 0

    @property
    def kept_bytes(self) -> int:
        """Bytes of the stream that are on disk."""
        return sum(self._kept)

    def write(self, data: bytes, boot_us: int) -> None:
        """Take note of `data`. A full disk drops bytes, never the command: they stay counted in `total_bytes`."""
        view = memoryview(data)
        while view:
            if self._room() <= 0 and not self._turn():
                self.total_bytes += len(view)
                return
            part = view[: min(self._room(), LONGEST_FRAME_BYTES)]
            if self._append(part, boot_us):
                # A frame costs at least its header, so that single bytes cannot fill the disk with headers.
                self._used[self._current] += max(len(part), HEADER.size)
                self._kept[self._current] += len(part)
            self.total_bytes += len(part)
            view = view[len(part) :]

    def close(self) -> None:
        """Give the descriptors back."""
        for fd in self._fds:
            os.close(fd)

    def _room(self) -> int:
        return self._limits[self._current] - self._used[self._current]

    def _open(self, index: int) -> int:
        return os.open(f"{self._directory}/{NAMES[index]}", _FLAGS, 0o600)

    def _turn(self) -> bool:
        """Go on in the older of the two files, emptied. False when that cannot be.

        A file stays open once it is: ext4 writes one that was emptied to the disk when it is closed.
        """
        index = 2 if self._current == 1 else 1
        if self._limits[index] == 0:
            return False
        try:
            if index == len(self._fds):
                self._fds.append(self._open(index))
            os.ftruncate(self._fds[index], 0)
        except OSError:
            return False  # no room for one more file: tried again with the next bytes
        self._current = index
        self._used[index] = self._kept[index] = self._length = 0
        return True

    def _append(self, part: memoryview, boot_us: int) -> bool:
        header = HEADER.pack(self.total_bytes, boot_us, len(part), 0)
        try:
            written = os.pwritev(self._fds[self._current], (header, part), self._length)
        except OSError:
            written = 0
        if written == len(header) + len(part):
            self._length += written
            return True
        self._forget_half_a_frame()
        return False

    def _forget_half_a_frame(self) -> None:
        try:
            os.ftruncate(self._fds[self._current], self._length)
        except OSError:
            pass  # a disk that takes nothing any more: the next frame is written over it


class Counter:
    """Takes the output of a check: counted, not kept; its tail is in the result."""

    kept_bytes = 0

    def __init__(self) -> None:
        self.total_bytes = 0

    def write(self, data: bytes, _boot_us: int) -> None:
        """Count `data`."""
        self.total_bytes += len(data)


def read(directory: str, offset: int = 0) -> Iterator[tuple[int, int, bytes]]:
    """The frames of `directory` from `offset` on, in order, as (offset, boot time in microseconds, bytes).

    A first offset above the one asked for, or above the end of the frame before, says how many bytes were dropped
    between. A half-written last frame is not shown. Safe beside a writer.
    """
    position = offset
    for _, name in sorted(_first_offsets(directory)):
        for start, boot_us, data in _frames(f"{directory}/{name}", position):
            skip = max(0, position - start)
            if skip < len(data):
                yield start + skip, boot_us, data[skip:]
                position = start + len(data)


def _first_offsets(directory: str) -> Iterator[tuple[int, str]]:
    for name in NAMES:
        for start, _, _ in _frames(f"{directory}/{name}", 0):
            yield start, name
            break


def _open_at_once(path: str, flags: int) -> int:
    """Also a FIFO that somebody put there: nobody may ever write to it."""
    return os.open(path, flags | os.O_NONBLOCK)


def _frames(path: str, from_offset: int) -> Iterator[tuple[int, int, bytes]]:
    """The whole frames of one file that reach beyond `from_offset`."""
    try:
        source = open(path, "rb", opener=_open_at_once)
    except FileNotFoundError:
        return
    with source:
        if not stat.S_ISREG(os.fstat(source.fileno()).st_mode):
            return
        first = os.pread(source.fileno(), HEADER.size, 0)
        expected = 0
        while len(header := source.read(HEADER.size)) == HEADER.size:
            start, boot_us, length, _ = HEADER.unpack(header)
            if start < expected or length > LONGEST_FRAME_BYTES:
                return
            expected = start + length
            data = None
            if expected > from_offset:
                data = source.read(length)
            else:
                source.seek(length, os.SEEK_CUR)
            if os.pread(source.fileno(), HEADER.size, 0) != first:
                return  # the writer has emptied this file for newer output
            if data is not None:
                if len(data) < length:
                    return
                yield start, boot_us, data
