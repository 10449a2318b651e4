"""The members of a tar archive, walked strictly, forward only.

`tarfile` parses the headers and nothing else: it never reads data, never skips, never sees the file. What it returns is
not believed: a header that would go back, a size below zero or a header without end ends the walk (CVE-2025-8194 and
its like loop or grow for ever), and so does every damage that `tarfile` takes for the end of the archive.
"""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from typing import IO, Any, cast

from jetwatch.content.archive import Meter, mtime_ns
from jetwatch.content.source import ContentStalled, Limits
from jetwatch.content.staging import Parts, Staging, parts_of, shown

_BLOCK = tarfile.BLOCKSIZE
_HEADER_BYTES = 64 * 1024  # all headers of one member; long names and attributes take some hundred bytes
_PADDING_BYTES = 1024**2  # zeros after the last member; tar pads to 10 KiB
_KINDS = {
    tarfile.LNKTYPE: "a hard link (pack with `tar --hard-dereference`)",
    tarfile.CHRTYPE: "a device",
    tarfile.BLKTYPE: "a device",
    tarfile.FIFOTYPE: "a FIFO",
    tarfile.GNUTYPE_SPARSE: "a sparse file (pack without `--sparse`)",
}


def unpack_tar(pieces: Iterator[bytes], staging: Staging, limits: Limits, meter: Meter) -> None:
    """Write every member into `staging`. Raises ContentStalled by the member's name."""
    stream = _Forward(pieces)
    try:
        walk = _Walk(stream)
        while (member := walk.following()) is not None:
            meter.check()
            parts = parts_of(member.name, limits)
            _write(member, parts, stream, staging)
    except (tarfile.TarError, RecursionError, ValueError, OverflowError) as error:
        raise ContentStalled(f"is damaged, or no tar archive: {error or 'headers in headers'}") from None
    stream.end()


def _write(member: tarfile.TarInfo, parts: Parts, stream: _Forward, staging: Staging) -> None:
    if member.sparse is not None or any(key.startswith("GNU.sparse.") for key in member.pax_headers):
        raise _refused(member, _KINDS[tarfile.GNUTYPE_SPARSE])
    when = mtime_ns(member.mtime)
    if member.type in (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.CONTTYPE):
        staging.file(parts, stream.data(member.size), member.mode, when)
    elif member.size:
        raise _refused(member, "no file and yet has data")
    elif member.type == tarfile.DIRTYPE:
        staging.directory(parts, member.mode, when)
    elif member.type == tarfile.SYMTYPE:
        staging.link(parts, member.linkname.encode("utf-8", "surrogateescape"))
    else:
        raise _refused(member, _KINDS.get(member.type, f"an entry of unknown type {member.type!r}"))


def _refused(member: tarfile.TarInfo, what: str) -> ContentStalled:
    return ContentStalled(f"the entry {shown(member.name)} is {what}")


class _Walk(tarfile.TarFile):
    """Header after header. `tarfile` keeps no list of them, and decides nothing about their order."""

    def __init__(self, stream: _Forward) -> None:
        self._stream = stream
        super().__init__(fileobj=cast(IO[bytes], stream), mode="r", encoding="utf-8", errors="surrogateescape")

    def next(self) -> Any:
        """Nothing: the base class would read one member ahead, and take damage for the end."""
        return None

    def following(self) -> tarfile.TarInfo | None:
        """The next member, with the stream at its data; None at the archive's end mark."""
        stream = self._stream
        stream.skip_padding(self.offset)
        stream.begin_header()
        try:
            member: tarfile.TarInfo = self.tarinfo.fromtarfile(self)
        except tarfile.EOFHeaderError:  # type: ignore[attr-defined]  # not in the stubs
            return None
        if member.size < 0 or self.offset < stream.tell():
            raise tarfile.ReadError(f"the entry {shown(member.name)} has a size below zero")
        return member


class _Forward:
    """The unpacked archive as `tarfile` sees it: headers only, of bounded length, and no way back."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces = pieces
        self._piece = memoryview(b"")
        self._position = 0
        self._header_bytes = 0

    def tell(self) -> int:
        """How many bytes were read."""
        return self._position

    def begin_header(self) -> None:
        """A member begins; its headers may now be read."""
        self._header_bytes = 0

    def read(self, size: int) -> bytes:
        """Bytes of a header: fewer than `size` only at the end."""
        self._header_bytes += size
        if size < 0 or self._header_bytes > _HEADER_BYTES:
            raise tarfile.ReadError(f"the header of one entry is longer than {_HEADER_BYTES} bytes")
        found = bytes(self._some(size))
        while len(found) < size and (more := self._some(size - len(found))):
            found += more
        return found

    def data(self, size: int) -> Iterator[memoryview]:
        """The data of a file of this size."""
        while size:
            some = self._some(size)
            if not some:
                raise tarfile.ReadError("it is cut short within an entry")
            size -= len(some)
            yield some

    def skip_padding(self, offset: int) -> None:
        """Go on to the next header. It is never behind, and less than one block ahead."""
        if not 0 <= offset - self._position < _BLOCK:
            raise tarfile.ReadError("the next header is not where it should be")
        for _ in self.data(offset - self._position):
            pass

    def end(self) -> None:
        """Read what follows the end mark, so that checksums are checked. It may only be zeros, and not many."""
        count = 0
        while some := self._some(_PADDING_BYTES):
            count += len(some)
            if count > _PADDING_BYTES or bytes(some).strip(b"\0"):
                raise ContentStalled("is damaged: there is something after its end mark")

    def _some(self, most: int) -> memoryview:
        if not self._piece:
            self._piece = memoryview(next(self._pieces, b""))
        some, self._piece = self._piece[:most], self._piece[most:]
        self._position += len(some)
        return some
