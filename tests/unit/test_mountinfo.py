"""What is mounted where: read right whatever a mount is called, and never the end of who reads it."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jetwatch.mounts import Mount, file_system_of, parse_mounts, read_mounts


def mounts(folder: Path, kind: str, *, device: int | None = None) -> Path:
    """A mountinfo in which what lies on `device` (that of `folder`) is of this kind."""
    number = folder.stat().st_dev if device is None else device
    text = (
        "22 27 0:21 / /proc rw,relatime - proc proc rw\n"
        f"27 1 {os.major(number)}:{os.minor(number)} / / rw,relatime shared:1 master:2 - {kind} server:/a\\040b rw\n"
        "28 27 9999:1 / /else rw - nfs4 server:/c rw\n"
    )
    path = folder / "mountinfo"
    path.write_bytes(b"20 27 0:19 / /mnt/\xff\xfe rw - tmpfs t rw\n" + text.encode())
    return path


@pytest.mark.parametrize("kind", ["ext4", "nfs4", "fuse.sshfs", "tmpfs", "xfs"])
def test_the_kind_of_a_file_system_is_read_off_its_mount(tmp_path: Path, kind: str) -> None:
    """By the number of its device, whatever stands in the other lines."""
    assert file_system_of(tmp_path, mounts(tmp_path, kind)) == kind


def test_a_file_system_that_is_not_listed_is_not_known(tmp_path: Path) -> None:
    """As in some containers."""
    assert file_system_of(tmp_path, mounts(tmp_path, "ext4", device=os.makedev(9998, 1))) == ""


def test_the_real_table_of_mounts_can_be_read() -> None:
    """/proc is what it is on every machine."""
    assert file_system_of(Path("/proc")) == "proc"


def test_mounts_are_read_whatever_their_names_are() -> None:
    """Blanks and backslashes are written in octal, other bytes as they are; optional fields come in any number."""
    text = (
        b"36 35 98:0 /mnt1 /a\\040b\\134c rw master:1 propagate_from:2 - ext3 /dev/root rw\n"
        b"37 35 0:3 / /caf\xe9 ro - tmpfs none ro\n"
        b"38 35 0:4 net:[4026531840] /run/netns/x rw shared:7 - nsfs nsfs rw\n"
    )
    assert list(parse_mounts(text)) == [
        Mount(Path("/mnt1"), Path("/a b\\c"), "ext3", "98:0"),
        Mount(Path("/"), Path(os.fsdecode(b"/caf\xe9")), "tmpfs", "0:3"),
        Mount(Path("net:[4026531840]"), Path("/run/netns/x"), "nsfs", "0:4"),
    ]


@pytest.mark.parametrize("byte", [b"\r", b"\x0b", b"\x0c", b"\x1c", b"\x1d", b"\x1e", b"\x85", b"\xc2\x85", b"\xff"])
def test_only_lf_ends_a_line(byte: bytes) -> None:
    """The kernel writes every other byte as it is, so a name with it makes no second line."""
    text = b"36 35 0:7 / /home/a" + byte + b"b rw - fuse.x" + byte + b"y none rw\n37 1 0:8 / / rw - ext4 none rw\n"
    first, second = parse_mounts(text)
    assert first.point == Path(os.fsdecode(b"/home/a" + byte + b"b"))
    assert first.kind == "fuse.x" + "?" * len(byte) + "y"
    assert (second.point, second.kind) == (Path("/"), "ext4")


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b" ",
        b"36",
        b"36 35 0:7 / /a rw",
        b"36 35 0:7 / /a rw -",
        b"36 35 0:7 / /a rw - ",
        b"36 35 0:7  /a rw - ext4 none rw",
        b"36 35 0:7 / a rw - ext4 none rw",
        b"- - - - - -",
        b"36 35 0:7 / /a\0b rw - ext4 none rw",
    ],
)
def test_a_line_that_is_no_mount_is_passed_over(line: bytes) -> None:
    """It says nothing of the mounts before and after it."""
    good = b"37 1 0:8 / / rw - ext4 none rw"
    assert len(list(parse_mounts(b"\n".join([good, line, good, b""])))) == 2


@given(
    st.binary() | st.lists(st.sampled_from([b"36", b"0:7", b"/", b"/a\\777\\40", b"rw", b"-", b"\n"])).map(b" ".join)
)
def test_no_bytes_end_the_reader(text: bytes) -> None:
    """And what it finds has the types that it says, with a kind that any terminal may show."""
    for mount in parse_mounts(text):
        assert mount.point.is_absolute()
        assert mount.kind.isascii()
        assert mount.kind.isprintable()


def test_a_real_mount_with_every_odd_byte_in_its_name_is_found(tmp_path: Path) -> None:
    """As the kernel of this machine writes it, between all the others."""
    if os.geteuid() != 0:
        pytest.skip("needs root")
    point = tmp_path / os.fsdecode(b"a\rb\nc\td e\\f#\x0b\x0c\x1c\x85\xc2\x85\xe2\x80\xa8\xff - tmpfs none")
    point.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "odd", point], capture_output=True, check=False)
    if done.returncode != 0:
        pytest.skip(f"cannot mount: {done.stderr.decode()}")
    try:
        assert point in [mount.point for mount in read_mounts()]
        assert file_system_of(point) == "tmpfs"
        assert file_system_of(Path("/proc")) == "proc"
    finally:
        subprocess.run(["umount", point], check=True)
