"""/proc/self/mountinfo: anybody who may mount with FUSE chooses the names in it, and they are bytes."""

from __future__ import annotations

import os
from pathlib import Path

from fuzz.target import Target, choice_and_rest
from jetwatch.mounts import Mount, parse_mounts

BEFORE = b"25 1 0:22 / /before rw,relatime shared:1 - ext4 /dev/a rw\n"
AFTER = b"26 1 0:23 /part /after rw - tmpfs tmpfs rw\n"
_ESCAPED = {b" ": b"\\040", b"\t": b"\\011", b"\n": b"\\012", b"\\": b"\\134"}


def one_input(data: bytes) -> None:
    """A name is read back as it is, and the mounts before and after it are read whatever it is."""
    road, rest = choice_and_rest(data, 3)
    if road == 0:
        _any_lines(rest)
    elif road == 1:
        _a_mount_point(rest.replace(b"\0", b"") or b"x")
    else:
        _a_source(rest.replace(b"\0", b"") or b"x")


def _parsed(lines: bytes) -> list[Mount]:
    found = list(parse_mounts(lines))
    assert all(each.kind.isascii() and each.kind.isprintable() for each in found), found
    return found


def _any_lines(lines: bytes) -> None:
    found = _parsed(BEFORE + lines + b"\n" + AFTER)
    assert (found[0].point, found[-1].point) == (Path("/before"), Path("/after")), found
    assert len(found) <= 3 + lines.count(b"\n")


def _a_mount_point(name: bytes) -> None:
    path = b"/" + name.strip(b"/")
    line = b"30 1 0:40 / %s rw,nosuid - fuse.x x rw,user_id=1000\n" % _as_the_kernel_writes(path)
    found = _parsed(BEFORE + line + AFTER)
    assert [os.fsencode(each.point) for each in found] == [b"/before", os.fsencode(Path(os.fsdecode(path))), b"/after"]


def _a_source(name: bytes) -> None:
    line = b"30 1 0:40 / /here rw,nosuid - fuse.x %s rw,user_id=1000\n" % _as_the_kernel_writes(name)
    found = _parsed(BEFORE + line + AFTER)
    assert [each.point for each in found] == [Path("/before"), Path("/here"), Path("/after")]
    assert found[1].kind == "fuse.x"


def _as_the_kernel_writes(name: bytes) -> bytes:
    for character in (b"\\", b" ", b"\t", b"\n"):
        name = name.replace(character, _ESCAPED[character])
    return name


TARGET = Target(
    "mountinfo",
    "no name of a mount hides another mount, or ends who reads it",
    one_input,
    words=(
        b" - ",
        b"\\040",
        b"\\012",
        b"\\999",
        b"\r",
        b"\x0b",
        b"\x0c",
        b"\x1c",
        b"\x85",
        b"cgroup2",
        b" / ",
        b"36 35 98:0 ",
    ),
)
