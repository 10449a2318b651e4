"""Valid archives of one tree in every kind, and what an extraction of something derived from them may do.

Shared by the tests of the extractor and by the long-running fuzzer.
"""

from __future__ import annotations

import gzip
import io
import os
import random
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import zstandard

from jetwatch.content.archive import extract
from jetwatch.content.source import ContentError, Limits

FILES = {
    "pb.yml": b"- hosts: localhost\n",
    "roles/web/tasks/main.yml": b"[]\n" * 50,
    "roles/web/files/page": bytes(range(256)) * 40,
    "empty": b"",
    "d" * 120 + "/" + "n" * 150: b"a long name",
    "größe": "ü".encode() * 100,
}
LINKS = {"current": "roles/web", "roles/up": "../pb.yml"}
FOLDERS = ("roles", "roles/web", "hollow")
LIMITS = Limits(total_bytes=2_000_000, entries=200, depth=8)


class Deadline(Exception):
    """The check said stop."""


def make_tar(form: int = tarfile.PAX_FORMAT) -> bytes:
    """The tree as tar."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w", format=form) as archive:
        for name in FOLDERS:
            entry = tarfile.TarInfo(name)
            entry.type, entry.mode, entry.mtime = tarfile.DIRTYPE, 0o750, 1_600_000_000
            archive.addfile(entry)
        for name, target in LINKS.items():
            entry = tarfile.TarInfo(name)
            entry.type, entry.linkname = tarfile.SYMTYPE, target
            archive.addfile(entry)
        for name, body in FILES.items():
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode, entry.mtime = len(body), 0o640, 1_500_000_000
            archive.addfile(entry, io.BytesIO(body))
    return packed.getvalue()


class _Pipe(io.RawIOBase):
    """Where a zip is written to that cannot be sought: it gets data descriptors."""

    def __init__(self) -> None:
        self.packed = b""

    def writable(self) -> bool:
        return True

    def write(self, piece: object) -> int:
        self.packed += bytes(piece)  # type: ignore[call-overload]
        return len(piece)  # type: ignore[arg-type]


def make_zip(*, streamed: bool = False, method: int = zipfile.ZIP_DEFLATED) -> bytes:
    """The tree as zip, as Info-ZIP on Unix makes it."""
    packed: io.BytesIO | _Pipe = _Pipe() if streamed else io.BytesIO()
    with zipfile.ZipFile(packed, "w", method) as archive:  # type: ignore[arg-type]
        for name in FOLDERS:
            entry = zipfile.ZipInfo(name + "/", (2020, 1, 2, 3, 4, 6))
            entry.external_attr = (0o040750 << 16) | 0x10
            archive.writestr(entry, b"")
        for name, target in LINKS.items():
            entry = zipfile.ZipInfo(name)
            entry.external_attr = 0o120777 << 16
            archive.writestr(entry, target)
        for name, body in FILES.items():
            entry = zipfile.ZipInfo(name, (2020, 1, 2, 3, 4, 6))
            entry.external_attr, entry.compress_type = 0o100640 << 16, method
            archive.writestr(entry, body)
    return packed.packed if isinstance(packed, _Pipe) else packed.getvalue()


def zstd(packed: bytes) -> bytes:
    """As one frame with a checksum."""
    return zstandard.ZstdCompressor(write_checksum=True).compress(packed)


SEEDS: dict[str, Callable[[], bytes]] = {
    "pax.tar": make_tar,
    "gnu.tar": lambda: make_tar(tarfile.GNU_FORMAT),
    "pax.tar.gz": lambda: gzip.compress(make_tar(), mtime=0),
    "gnu.tar.zst": lambda: zstd(make_tar(tarfile.GNU_FORMAT)),
    "plain.tar.zst": lambda: zstandard.ZstdCompressor(write_checksum=False).compress(make_tar()),
    "deflated.zip": make_zip,
    "stored.zip": lambda: make_zip(method=zipfile.ZIP_STORED),
    "streamed.zip": lambda: make_zip(streamed=True),
}
CHECKED = ("pax.tar.gz", "gnu.tar.zst")
"""Kinds whose checksum covers everything: a change is noticed or makes no difference."""


def tree(directory: Path) -> dict[str, tuple[str, bytes]]:
    """Every entry below a directory, and what it holds; inodes, modes and times aside."""
    found = {}
    for path in directory.rglob("*"):
        key = str(path.relative_to(directory))
        if path.is_symlink():
            found[key] = ("link", os.fsencode(path.readlink()))
        elif path.is_dir():
            found[key] = ("folder", b"")
        else:
            assert path.is_file(), f"{key!r} is neither file nor directory"
            found[key] = ("file", path.read_bytes())
    return found


def whole() -> dict[str, tuple[str, bytes]]:
    """What every seed has to become."""
    found = {name: ("file", body) for name, body in FILES.items()}
    found |= {name: ("link", target.encode()) for name, target in LINKS.items()}
    found |= dict.fromkeys((*FOLDERS, "roles/web/tasks", "roles/web/files", "d" * 120), ("folder", b""))
    return found


def unpack(packed: bytes, into: Path, *, limits: Limits = LIMITS, checks: int = 20_000) -> None:
    """Extract bytes. `checks`: after so many the deadline has passed."""
    left = iter(range(checks))

    def check() -> None:
        if next(left, None) is None:
            raise Deadline

    extract(io.BytesIO(packed), into, name="test.tar", limits=limits, check=check)


def try_out(packed: bytes, room: Path) -> str | None:
    """Extract bytes that may be anything below `room`: the error's sentence, or None if there was none.

    Raises AssertionError where something was written outside, where a link leads out, or where an error is of no kind.
    """
    into, beside = room / "into", room / "beside"
    into.mkdir()
    beside.mkdir()
    (beside / "sentinel").write_bytes(b"untouched")
    before = {path.name for path in room.parent.iterdir()}
    said = None
    try:
        unpack(packed, into)
    except ContentError as error:
        said = str(error)
        assert said.startswith("test.tar: "), said
        assert said.isprintable(), said
    assert tree(beside) == {"sentinel": ("file", b"untouched")}
    assert {path.name for path in room.iterdir()} == {"into", "beside"}
    assert {path.name for path in room.parent.iterdir()} == before
    inside = into.resolve()
    for key, (kind, _) in tree(into).items():
        assert kind != "link" or (into / key).resolve().is_relative_to(inside), key
        facts = (into / key).lstat()
        assert kind == "link" or facts.st_mode & 0o7000 == 0, key
        assert facts.st_nlink == 1 or kind == "folder", key
    return said


def mutate(packed: bytes, chance: random.Random) -> bytes:
    """Something like it: bits turned, bytes cut, moved, doubled, or whole blocks exchanged."""
    body = bytearray(packed)
    for _ in range(chance.choice((1, 1, 1, 2, 4, 16))):
        at = chance.randrange(len(body) + 1)
        length = chance.choice((1, 1, 2, 4, 8, 12, 100, 512))
        match chance.randrange(7):
            case 0 if at < len(body):
                body[at] ^= 1 << chance.randrange(8)
            case 1:
                body[at : at + length] = chance.randbytes(length)
            case 2:
                del body[at : at + length]
            case 3:
                body[at:at] = body[at : at + length]
            case 4:
                body[at : at + length] = chance.choice((b"\0", b"\xff", b"/", b"\x80", b".")) * length
            case 5:
                del body[at:]
            case _:
                one, two = (chance.randrange(len(body) // 512 + 1) * 512 for _ in range(2))
                body[one : one + 512], body[two : two + 512] = body[two : two + 512], body[one : one + 512]
        body = body or bytearray(b"\0")
    return bytes(body)


def repair(body: bytes, chance: random.Random) -> bytes:
    """Change fields of tar headers and put their checksums right again, so that the change is believed."""
    made = bytearray(body)
    fields = ((0, 100), (100, 8), (124, 12), (136, 12), (156, 1), (157, 100), (257, 8), (345, 155))
    starts = [at for at in range(0, len(made) - 511, 512) if made[at + 257 : at + 262] == b"ustar"]
    for at in chance.sample(starts, min(len(starts), chance.randint(1, 3))):
        offset, size = chance.choice(fields)
        field = bytearray(made[at + offset : at + offset + size])
        match chance.randrange(5):
            case 0:
                field = bytearray(chance.randbytes(size))
            case 1:
                field[:] = (b"../" * size)[:size]
            case 2:
                field[:] = (chance.choice((b"/etc/x\0", b"..\0", b"\xff" * 12, b"\x80\0\0\0", b"0" * 12))).ljust(
                    size, b"\0"
                )[:size]
            case 3:
                field[0] = chance.choice(b"0123456789LKSxgVMNDX\0")
            case _:
                field[chance.randrange(size)] ^= 1 << chance.randrange(8)
        made[at + offset : at + offset + size] = field
        made[at + 148 : at + 156] = b" " * 8
        made[at + 148 : at + 156] = b"%06o\0 " % sum(made[at : at + 512])
    return bytes(made)
