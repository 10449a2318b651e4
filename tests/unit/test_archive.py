"""An archive becomes exactly the tree it describes, or is refused by the name of its entry; nothing lies outside."""

from __future__ import annotations

import contextlib
import gzip
import io
import os
import random
import shutil
import stat
import struct
import subprocess
import sys
import tarfile
import tempfile
import time
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "torture"))

import archives
from archives import CHECKED, LIMITS, SEEDS, Deadline, make_tar, make_zip, tree, try_out, unpack, whole, zstd
from servers import how_to_install

from jetwatch.content.source import ContentRetry, ContentStalled, Limits

Change = Callable[[tarfile.TarInfo], None]
TORTURE = Path(archives.__file__).parent


def tar(*entries: tuple[str, bytes], change: Change = lambda entry: None, form: int = tarfile.PAX_FORMAT) -> bytes:
    """A tar of files; `change` is done to each header. Sizes that it sets stand, whatever follows."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w", format=form) as archive:
        for name, body in entries:
            entry = tarfile.TarInfo(name)
            entry.size = len(body)
            change(entry)
            archive.fileobj.write(entry.tobuf(form))  # type: ignore[union-attr]
            archive.fileobj.write(body + b"\0" * (-len(body) % 512))  # type: ignore[union-attr]
    return packed.getvalue()


def special(kind: bytes, **facts: object) -> Change:
    """Makes an entry of another type."""

    def change(entry: tarfile.TarInfo) -> None:
        entry.type = kind
        for name, value in facts.items():
            setattr(entry, name, value)

    return change


def set_field(packed: bytes, offset: int, value: bytes) -> bytes:
    """Write into the first header of a tar, and put its checksum right."""
    header = bytearray(packed[:512])
    header[offset : offset + len(value)] = value
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    return bytes(header) + packed[512:]


def zipped(*entries: tuple[str, bytes], **facts: object) -> bytes:
    """A zip of files; `facts` are set on each entry."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for name, body in entries:
            entry = zipfile.ZipInfo("placeholder")
            entry.filename = entry.orig_filename = name
            for key, value in facts.items():
                setattr(entry, key, value)
            archive.writestr(entry, body)
    return packed.getvalue()


def patched(packed: bytes, magic: bytes, offset: int, value: bytes) -> bytes:
    """Write into every record of a zip that begins with `magic`."""
    made = bytearray(packed)
    at = made.find(magic)
    assert at >= 0
    while at >= 0:
        made[at + offset : at + offset + len(value)] = value
        at = made.find(magic, at + 1)
    return bytes(made)


LOCAL, CENTRAL = b"PK\x03\x04", b"PK\x01\x02"


def refusal(packed: bytes, room: Path, limits: Limits = LIMITS) -> str:
    """The sentence with which an archive is refused."""
    into = Path(tempfile.mkdtemp(dir=room))
    with pytest.raises(ContentStalled) as refused:
        unpack(packed, into, limits=limits)
    assert str(refused.value).startswith("test.tar: ")
    return str(refused.value)


@pytest.mark.parametrize("name", sorted(SEEDS))
def test_every_kind_becomes_the_same_tree(tmp_path: Path, name: str) -> None:
    """tar, tar.gz, tar.zst and zip, told apart by their bytes."""
    unpack(SEEDS[name](), tmp_path)
    assert tree(tmp_path) == whole()


@pytest.mark.parametrize("name", ["pax.tar", "gnu.tar.zst", "deflated.zip"])
def test_modes_and_times_are_kept(tmp_path: Path, name: str) -> None:
    """Permission bits and times of files and directories, whatever the umask."""
    unpack(SEEDS[name](), tmp_path)
    assert stat.S_IMODE((tmp_path / "pb.yml").stat().st_mode) == 0o640
    assert stat.S_IMODE((tmp_path / "roles").stat().st_mode) == 0o750
    assert (tmp_path / "pb.yml").stat().st_mtime == (1_577_934_246 if name.endswith("zip") else 1_500_000_000)
    if not name.endswith("zip"):
        assert (tmp_path / "hollow").stat().st_mtime == 1_600_000_000
        assert (tmp_path / "roles").stat().st_mtime == 1_600_000_000


def test_special_permissions_are_taken_off(tmp_path: Path) -> None:
    """No setuid, setgid or sticky bit; a directory can always be entered by its owner; owners are not applied."""
    unpack(tar(("run", b"x"), change=special(tarfile.REGTYPE, mode=0o7755, uid=12345, gid=12345)), tmp_path)
    unpack(tar(("shut", b""), change=special(tarfile.DIRTYPE, mode=0o7000)), tmp_path)
    assert stat.S_IMODE((tmp_path / "run").stat().st_mode) == 0o755
    assert stat.S_IMODE((tmp_path / "shut").stat().st_mode) == 0o700
    assert (tmp_path / "run").stat().st_uid == os.geteuid()


@pytest.mark.parametrize("mtime", [-5.0, 1e30, float("nan"), float("inf"), float("-inf")])
def test_impossible_times_are_clamped(tmp_path: Path, mtime: float) -> None:
    """A time before 1970 or after now is the nearest one that is neither."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as archive:
        entry = tarfile.TarInfo("f")
        entry.pax_headers = {"mtime": str(mtime)}
        archive.addfile(entry)
    unpack(packed.getvalue(), tmp_path)
    assert 0 <= (tmp_path / "f").stat().st_mtime <= time.time()


def test_the_archive_of_a_directory_by_its_dot(tmp_path: Path) -> None:
    """`tar -C dir -c .` is how most archives are made."""
    (tmp_path / "src/sub").mkdir(parents=True)
    (tmp_path / "src/sub/file").write_bytes(b"x")
    packed = subprocess.run(["tar", "-C", tmp_path / "src", "-c", "."], capture_output=True, check=True).stdout
    (tmp_path / "into").mkdir()
    unpack(packed, tmp_path / "into")
    assert tree(tmp_path / "into") == {"sub": ("folder", b""), "sub/file": ("file", b"x")}


def test_names_that_are_not_utf8_arrive_byte_for_byte(tmp_path: Path) -> None:
    """A name is bytes; GNU tar stores them as they are."""
    name = os.fsdecode(b"caf\xe9")
    unpack(tar((name, b"x"), form=tarfile.GNU_FORMAT), tmp_path)
    assert os.listdir(os.fsencode(tmp_path)) == [b"caf\xe9"]  # noqa: PTH208 - bytes


@pytest.mark.parametrize(
    "packed",
    [tar(), zipped(), bytes(512), bytes(100_000), gzip.compress(tar()), zstd(tar())],
    ids=["tar", "zip", "one block of zeros", "zeros", "tar.gz", "tar.zst"],
)
def test_an_archive_of_nothing_is_nothing_yet(tmp_path: Path, packed: bytes) -> None:
    """A file of zeros, as a crash may leave one, is a valid tar without entries: it must not become an empty tree."""
    with pytest.raises(ContentRetry, match="nothing there yet"):
        unpack(packed, tmp_path)


NAMES = {
    "absolute": "/etc/passwd",
    "parent": "../up",
    "parent within": "a/../../up",
    "parent at the end": "a/..",
    "parent alone": "..",
    "empty part": "a//b",
    "dot part": "a/./b",
    "two dots first": "././a",
    "newline": "a\nb",
    "escape": "a\x1b[31mb",
    "delete": "a\x7fb",
    "part too long": "n" * 256,
    "too deep": "/".join("abcdefghi"),
}


@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES)
def test_a_name_that_is_no_plain_path_is_refused_in_tar(tmp_path: Path, name: str) -> None:
    """Also one that would end inside; the sentence shows the name, printable."""
    assert repr(name)[:100].rstrip("'") in refusal(tar((name, b"x")), tmp_path)


@pytest.mark.parametrize("name", [*NAMES.values(), "", "a\0b", "back\\slash", "..\\up", "C:\\x"])
def test_a_name_that_is_no_plain_path_is_refused_in_zip(tmp_path: Path, name: str) -> None:
    """The same for zip, with backslashes besides, and a NUL that would cut the name."""
    assert repr(name)[:100].rstrip("'") in refusal(zipped((name, b"x")), tmp_path)


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        (tarfile.LNKTYPE, "a hard link"),
        (tarfile.CHRTYPE, "a device"),
        (tarfile.BLKTYPE, "a device"),
        (tarfile.FIFOTYPE, "a FIFO"),
        (b"Z", "unknown type"),
        (b"D", "unknown type"),
        (b"M", "unknown type"),
    ],
)
def test_an_entry_that_is_no_file_directory_or_symlink_is_refused(tmp_path: Path, kind: bytes, said: str) -> None:
    """By name, and with what it is."""
    sentence = refusal(tar(("the-entry", b""), change=special(kind, linkname="pb.yml", devmajor=1)), tmp_path)
    assert said in sentence
    assert "'the-entry'" in sentence


@pytest.mark.parametrize(
    "target",
    ["/etc/passwd", "..", "../x", "../../x", "", "a/../b", "a/../../x", ".././..", "/", "new\nline", "x" * 5000],
)
def test_a_symlink_that_could_lead_out_is_refused(tmp_path: Path, target: str) -> None:
    """Absolute, above the content, or up again after a name, where other links could have led elsewhere."""
    change = special(tarfile.SYMTYPE, linkname=target)
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as archive:
        entry = tarfile.TarInfo("the-link")
        change(entry)
        archive.addfile(entry)
    assert "'the-link'" in refusal(packed.getvalue(), tmp_path)


def test_a_chain_of_symlinks_cannot_climb(tmp_path: Path) -> None:
    """Each step inside, all together outside: the classic of long link chains, refused at the step that could climb."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        for name, target in (("a/b/up", "../.."), ("out", "a/b/up/../x")):
            entry = tarfile.TarInfo(name)
            entry.type, entry.linkname = tarfile.SYMTYPE, target
            archive.addfile(entry)
    assert "'out'" in refusal(packed.getvalue(), tmp_path)


@pytest.mark.parametrize("later", ["link/file", "link"])
@pytest.mark.parametrize("first", ["link", "other"])
def test_nothing_is_written_through_a_symlink(tmp_path: Path, first: str, later: str) -> None:
    """A link and an entry below it or in its place, in either order."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        link, file = tarfile.TarInfo("link"), tarfile.TarInfo(later)
        link.type, link.linkname = tarfile.SYMTYPE, "target"
        for entry in (link, file) if first == "link" else (file, link):
            archive.addfile(entry)
    assert "link" in refusal(packed.getvalue(), tmp_path)


@pytest.mark.parametrize(
    "names",
    [("a", "a"), ("a", "a/b"), ("a/b", "a"), ("./a", "a")],
    ids=["file", "file then folder", "folder then file", "dot"],
)
@pytest.mark.parametrize("pack", [tar, zipped])
def test_a_path_that_stands_twice_is_refused(
    tmp_path: Path, names: tuple[str, str], pack: Callable[..., bytes]
) -> None:
    """The last one does not win, nor does the first."""
    with pytest.warns() if pack is zipped and names[0] == names[1] else contextlib.nullcontext():
        packed = pack(*((name, b"x") for name in names))
    assert "'a'" in refusal(packed, tmp_path)


def test_a_directory_that_stands_twice_is_refused(tmp_path: Path) -> None:
    """Once implied by a file and once itself is fine, twice itself is not."""
    folder = special(tarfile.DIRTYPE, mode=0o755)
    implied = tar(("a/b", b"x"))[:1024]
    unpack(implied + tar(("a", b""), change=folder), Path(tempfile.mkdtemp(dir=tmp_path)))
    assert "'a'" in refusal(tar(("a", b""), ("a", b""), change=folder), tmp_path)


def test_names_that_differ_in_case_only_are_two_files(tmp_path: Path) -> None:
    """As on every file system that tells them apart."""
    unpack(tar(("A", b"1"), ("a", b"2")), tmp_path)
    assert tree(tmp_path) == {"A": ("file", b"1"), "a": ("file", b"2")}


@pytest.mark.parametrize("flags", [("--format=gnu",), ("--format=pax",), ("--format=pax", "--sparse-version=0.1")])
def test_a_sparse_file_is_refused(tmp_path: Path, flags: tuple[str, ...]) -> None:
    """Every form of sparse member, made by the real tar."""
    with (tmp_path / "holes").open("wb") as file:
        file.truncate(10_000_000)
        file.seek(5_000_000)
        file.write(b"x")
    command = ["tar", *flags, "-C", tmp_path, "--sparse", "-c", "holes"]
    packed = subprocess.run(command, capture_output=True, check=True).stdout
    assert "sparse" in refusal(packed, tmp_path, Limits())


def test_more_bytes_than_the_limit_are_refused(tmp_path: Path) -> None:
    """By the name of the file with which the limit is passed."""
    assert "'second'" in refusal(tar(("first", b"x" * 600), ("second", b"x" * 600)), tmp_path, Limits(total_bytes=1000))
    assert "'second'" in refusal(
        zipped(("first", b"x" * 600), ("second", b"x" * 600)), tmp_path, Limits(total_bytes=1000)
    )


def test_more_entries_than_the_limit_are_refused(tmp_path: Path) -> None:
    """Implied directories count; a zip is refused before it is listed."""
    names = [(f"f{number}/x", b"") for number in range(5)]
    assert "9 entries" in refusal(tar(*names), tmp_path, Limits(entries=9))
    assert "4 entries" in refusal(zipped(*names), tmp_path, Limits(entries=4))
    unpack(tar(*names), Path(tempfile.mkdtemp(dir=tmp_path)), limits=Limits(entries=10))


@pytest.mark.parametrize("pack", [gzip.compress, zstd])
def test_a_bomb_is_refused(tmp_path: Path, pack: Callable[[bytes], bytes]) -> None:
    """More than the ratio beyond the first 64 MiB: the disk never sees much of it."""
    packed = pack(tar(("bomb", bytes(100 * 1024**2))))
    assert "bomb" in refusal(packed, tmp_path, Limits(ratio=10.0))
    assert sum(path.stat().st_size for path in tmp_path.rglob("*") if path.is_file()) <= 64 * 1024**2


def test_a_zip_bomb_is_refused(tmp_path: Path) -> None:
    """The same for one deflated entry."""
    packed = zipped(("bomb", bytes(100 * 1024**2)), compress_type=zipfile.ZIP_DEFLATED)
    assert "bomb" in refusal(packed, tmp_path, Limits(ratio=10.0))


def test_a_small_archive_of_zeros_is_no_bomb(tmp_path: Path) -> None:
    """Up to 64 MiB any ratio will do."""
    unpack(zstd(tar(("zeros", bytes(30 * 1024**2)))), tmp_path, limits=Limits(ratio=2.0))
    assert (tmp_path / "zeros").stat().st_size == 30 * 1024**2


def test_a_frame_that_wants_gigabytes_of_memory_is_refused(tmp_path: Path) -> None:
    """A zstd window of 1 GiB, as `zstd --long=30` makes it; 128 MiB pass."""
    for log, fine in ((27, True), (30, False)):
        settings_ = zstandard.ZstdCompressionParameters(window_log=log, enable_ldm=True)
        compressor = zstandard.ZstdCompressor(compression_params=settings_).compressobj()  # size unknown: window stays
        packed = compressor.compress(tar(("f", b"x"))) + compressor.flush()
        if fine:
            unpack(packed, tmp_path)
        else:
            assert "128 MiB" in refusal(packed, tmp_path)


@pytest.mark.parametrize("name", sorted(SEEDS))
def test_an_archive_that_is_cut_anywhere_is_an_error(tmp_path: Path, name: str) -> None:
    """At every 1/64 and close to the end: never a shorter tree. Only a tar's own padding may be missing."""
    packed = SEEDS[name]()
    cuts = {len(packed) * part // 64 for part in range(64)} | set(range(len(packed) - 30, len(packed)))
    padding = len(packed) - len(packed.rstrip(b"\0")) if name.endswith(".tar") else 0
    for cut in cuts:
        into = Path(tempfile.mkdtemp(dir=tmp_path))
        try:
            unpack(packed[:cut], into)
        except ContentStalled:
            continue
        assert cut > len(packed) - padding, cut
        assert tree(into) == whole()


@pytest.mark.parametrize("name", sorted(name for name in SEEDS if not name.endswith("zip")))
def test_something_after_the_end_is_an_error(tmp_path: Path, name: str) -> None:
    """A second archive that nobody would see, or rubbish. (A zip is read from its end.)"""
    assert refusal(SEEDS[name]() + b"more", tmp_path)
    assert refusal(SEEDS[name]() + SEEDS[name](), tmp_path)


@pytest.mark.parametrize(
    "packed", [b"", b"x", b"<html>" * 1000, b"\0" * 100, b"PK\x03\x04", b"\x1f\x8b", b"\x28\xb5\x2f\xfd"]
)
def test_what_is_no_archive_is_an_error(tmp_path: Path, packed: bytes) -> None:
    """A page of a proxy, an empty file."""
    assert "damaged" in refusal(packed, tmp_path)


@pytest.mark.parametrize("size", [-1, -512, -(2**60)])
def test_a_size_below_zero_does_not_send_the_reader_back(tmp_path: Path, size: int) -> None:
    """CVE-2025-8194: a header that points at itself made tarfile go round for ever."""
    field = b"\xff" + (size & (2**88 - 1)).to_bytes(11, "big")
    for kind in (tarfile.REGTYPE, tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME, b"Z"):
        packed = set_field(set_field(tar(("f", b"")), 124, field), 156, kind)
        assert "damaged" in refusal(packed, tmp_path)


def test_a_size_below_zero_in_a_pax_header_is_refused(tmp_path: Path) -> None:
    """The same by the other way a size can be said."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as archive:
        entry = tarfile.TarInfo("f")
        entry.pax_headers = {"size": "-1024"}
        archive.addfile(entry)
    assert "damaged" in refusal(packed.getvalue(), tmp_path)


def test_a_header_of_megabytes_is_refused(tmp_path: Path) -> None:
    """Long names and pax records are read whole, so they have a bound."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as archive:
        entry = tarfile.TarInfo("f")
        entry.pax_headers = {"comment": "x" * 1_000_000}
        archive.addfile(entry)
    assert "header" in refusal(packed.getvalue(), tmp_path)


def test_headers_without_a_member_are_refused(tmp_path: Path) -> None:
    """Long-name entries one after another, as deep as tarfile calls itself."""
    one = tar(("././@LongLink", b"name\0"), change=special(tarfile.GNUTYPE_LONGNAME))[:1024]
    assert "damaged" in refusal(one * 5000, tmp_path)


def test_a_slow_pax_header_ends_in_time(tmp_path: Path) -> None:
    """CVE-2024-6232 and its like: the worst header within the bound takes seconds at most."""
    record = b"2 " * 31_000
    packed = tar(("f", record), change=special(tarfile.XHDTYPE))[: 512 + 62_464] + tar(("f", b""))
    started = time.monotonic()
    try_out(packed, Path(tempfile.mkdtemp(dir=tmp_path)))
    assert time.monotonic() - started < 30


@pytest.mark.parametrize("name", ["pax.tar", "gnu.tar.zst", "deflated.zip"])
def test_a_deadline_ends_an_extraction(tmp_path: Path, name: str) -> None:
    """What the check raises comes out as it is."""
    with pytest.raises(Deadline):
        unpack(SEEDS[name](), tmp_path, checks=3)


def test_a_full_disk_is_asked_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No space is no fault of the archive."""

    def full(_descriptor: int, _chunk: bytes) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("jetwatch.content.staging.write_all", full)
    with pytest.raises(ContentRetry, match=r"'pb\.yml': No space"):
        unpack(tar(("pb.yml", b"x")), tmp_path)


def test_an_encrypted_zip_entry_is_refused(tmp_path: Path) -> None:
    """By its flag, in both headers."""
    packed = zipped(("secret", b"x"))
    packed = patched(patched(packed, LOCAL, 6, b"\x01"), CENTRAL, 8, b"\x01")
    sentence = refusal(packed, tmp_path)
    assert "encrypted" in sentence
    assert "'secret'" in sentence


def test_an_unusual_zip_method_is_refused(tmp_path: Path) -> None:
    """Only stored and deflated entries are read."""
    assert "method 14" in refusal(zipped(("f", b"x"), compress_type=zipfile.ZIP_LZMA), tmp_path)


def test_a_wrong_checksum_in_a_zip_is_refused(tmp_path: Path) -> None:
    """Also where both headers agree on it."""
    packed = patched(patched(zipped(("f", b"abc")), LOCAL, 14, b"1234"), CENTRAL, 16, b"1234")
    assert "checksum" in refusal(packed, tmp_path)


@pytest.mark.parametrize(
    ("at", "value"), [(14, b"1234"), (18, b"\x01\0\0\0"), (22, b"\x01\0\0\0"), (8, b"\x08\0"), (30, b"g")]
)
def test_two_headers_that_do_not_agree_are_refused(tmp_path: Path, at: int, value: bytes) -> None:
    """Checksum, sizes, method and name of the entry's own header are those of the directory."""
    assert "'f'" in refusal(patched(zipped(("f", b"abc")), LOCAL, at, value), tmp_path)


@pytest.mark.parametrize("at", [4, 8, 12])
def test_a_data_descriptor_that_lies_is_refused(tmp_path: Path, at: int) -> None:
    """Checksum and both sizes after the data are those of the directory."""
    assert "descriptor" in refusal(patched(make_zip(streamed=True), b"PK\x07\x08", at, b"\x01\x02"), tmp_path)


def test_overlapping_zip_entries_are_refused(tmp_path: Path) -> None:
    """One piece of data under many names is how a small zip becomes a large tree."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("one", b"x" * 1000)
        archive.writestr("two", b"x" * 1000)
        archive.infolist()[1].header_offset = archive.infolist()[0].header_offset
    assert "overlapping" in refusal(packed.getvalue(), tmp_path)


def test_a_zip_entry_within_another_is_refused(tmp_path: Path) -> None:
    """Quoted local headers: the data of the first contains the second entry whole."""
    inner = zipped(("two", b"x" * 10))
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("one", inner)
        entry = zipfile.ZipInfo("two")
        entry.header_offset, entry.CRC = 33, zlib.crc32(b"x" * 10)
        entry.compress_size = entry.file_size = 10
        archive.filelist.append(entry)
    assert "overlapping" in refusal(packed.getvalue(), tmp_path)


def test_deflated_data_that_is_longer_than_promised_is_refused(tmp_path: Path) -> None:
    """A size that lies, with the checksum of what was promised."""
    packed = zipped(("f", b"abc" * 100), compress_type=zipfile.ZIP_DEFLATED)
    size, checksum = struct.pack("<L", 3), struct.pack("<L", zlib.crc32(b"abc"))
    for magic, at in ((LOCAL, 14), (CENTRAL, 16)):
        packed = patched(patched(packed, magic, at, checksum), magic, at + 8, size)
    assert "larger" in refusal(packed, tmp_path)


@pytest.mark.parametrize("kind", [stat.S_IFIFO, stat.S_IFCHR, stat.S_IFBLK, stat.S_IFSOCK, stat.S_IFDIR])
def test_a_zip_entry_that_is_no_file_is_refused(tmp_path: Path, kind: int) -> None:
    """Devices, FIFOs, sockets, and a directory whose name is a file's."""
    assert "'f'" in refusal(zipped(("f", b""), external_attr=(kind | 0o644) << 16), tmp_path)


@pytest.mark.parametrize("target", [b"/etc", b"../x", b"a/../../x", b"", b"x" * 5000])
def test_a_symlink_in_a_zip_that_leads_out_is_refused(tmp_path: Path, target: bytes) -> None:
    """By the same rule as in tar."""
    assert "'f'" in refusal(zipped(("f", target), external_attr=0o120777 << 16), tmp_path)


def test_a_directory_in_a_zip_with_data_is_refused(tmp_path: Path) -> None:
    """A name with a slash at its end has nothing in it."""
    assert "'f/'" in refusal(zipped(("f/", b"x")), tmp_path)


@pytest.mark.skipif(shutil.which("zip") is None, reason=f"needs zip: {how_to_install('zip')}")
def test_a_zip_by_the_command_zip_becomes_its_tree(tmp_path: Path) -> None:
    """As people make them, with links kept."""
    (tmp_path / "src/sub").mkdir(parents=True)
    (tmp_path / "src/sub/run").write_bytes(b"x" * 1000)
    (tmp_path / "src/link").symlink_to("sub/run")
    subprocess.run(["zip", "-q", "-r", "-y", tmp_path / "it.zip", "."], cwd=tmp_path / "src", check=True)
    (tmp_path / "into").mkdir()
    unpack((tmp_path / "it.zip").read_bytes(), tmp_path / "into")
    assert tree(tmp_path / "into") == tree(tmp_path / "src")


def test_the_target_itself_is_never_replaced(tmp_path: Path) -> None:
    """An entry for the directory itself is understood for a directory and for nothing else."""
    assert "own directory" in refusal(tar((".", b"x")), tmp_path)
    assert "own directory" in refusal(tar((".", b""), change=special(tarfile.SYMTYPE, linkname="x")), tmp_path)


def test_a_target_that_is_a_symlink_is_refused(tmp_path: Path) -> None:
    """The directory is opened without following."""
    (tmp_path / "real").mkdir()
    (tmp_path / "into").symlink_to("real")
    with pytest.raises(ContentStalled):
        unpack(make_tar(), tmp_path / "into")
    assert tree(tmp_path / "real") == {}


def test_memory_does_not_grow_with_the_archive(tmp_path: Path) -> None:
    """A file of 200 MiB passes through in pieces."""
    packed = zstd(tar(("zeros", bytes(200 * 1024**2))))
    (tmp_path / "a.tar.zst").write_bytes(packed)
    (tmp_path / "into").mkdir()
    code = (
        "import resource, sys; from pathlib import Path; from jetwatch.content.archive import extract;"
        "from jetwatch.content.source import Limits; file = open(sys.argv[1], 'rb');"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss;"
        "extract(file, Path(sys.argv[2]), name='a', limits=Limits(ratio=1e9), check=lambda: None);"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "a.tar.zst"), str(tmp_path / "into")]
    grown_kib = int(subprocess.run(command, capture_output=True, check=True, text=True).stdout)
    assert (tmp_path / "into/zeros").stat().st_size == 200 * 1024**2
    assert grown_kib < 40 * 1024


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(sorted(SEEDS)), st.integers(0, 2**32), st.booleans())
def test_whatever_is_done_to_an_archive_nothing_lies_outside(name: str, seed: int, believed: bool) -> None:
    """Bits turned, bytes cut, moved, doubled, headers changed with a right checksum: the exact tree or an error."""
    chance = random.Random(seed)
    packed = SEEDS[name]()
    mutated = archives.repair(packed, chance) if believed and name.endswith(".tar") else archives.mutate(packed, chance)
    with tempfile.TemporaryDirectory() as outer:
        room = Path(outer) / "room"
        room.mkdir()
        said = try_out(mutated, room)
        if said is None and name in CHECKED:
            assert tree(room / "into") == whole()


def test_the_fuzzer_runs(tmp_path: Path) -> None:
    """It ends by itself and says how many it tried."""
    command = [sys.executable, str(TORTURE / "fuzz_archive.py"), "--seconds", "1", "--seed", "3"]
    ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "0 broke a rule" in ended.stdout
