"""What is mounted where, as the kernel tells it of this process: the one reader of mountinfo.

Any account can mount something below its home, under a name of any bytes. The kernel writes blank, tab, LF and
backslash in octal and every other byte as it is, so a line ends at LF alone and is taken apart at blanks alone. A line
that is no such line is passed over: it says nothing of the others.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

from msgspec import Struct

from jetwatch.bounded import read_proc

MOUNTINFO = Path("/proc/self/mountinfo")
_MOST_BYTES = 32 * 1024**2
"""The kernel allows 100,000 mounts (fs.mount-max); this is more than 300 bytes for each."""
_ESCAPED = re.compile(rb"\\([0-3][0-7]{2})")
_BEFORE_OPTIONS = 6
_UNPRINTABLE = re.compile(rb"[^!-~]")


class Mount(Struct, frozen=True):
    """`shows`: which part of the file system (`/`: all of it) is seen at `point`. `kind`: ext4, tmpfs, cgroup2, …

    `device`: `major:minor`, as os.stat tells it of what lies there. `kind` is ASCII, with `?` for any other byte.
    """

    shows: Path
    point: Path
    kind: str
    device: str = ""


def read_mounts(mountinfo: Path = MOUNTINFO) -> list[Mount]:
    """All mounts, in the order in which they were made. Raises OSError where there is no such file."""
    return list(parse_mounts(read_proc(mountinfo, _MOST_BYTES)))


def parse_mounts(text: bytes) -> Iterator[Mount]:
    """The mounts that the lines of a mountinfo tell of. Raises nothing, whatever the bytes are."""
    for line in text.split(b"\n"):
        mount = _parse(line)
        if mount is not None:
            yield mount


def _parse(line: bytes) -> Mount | None:
    # proc_pid_mountinfo(5): device, root and mount point are fields 3 to 5, the type is the first one after "-".
    fields = line.split(b" ")
    try:
        kind = fields[fields.index(b"-", _BEFORE_OPTIONS) + 1]
        device, shows, point = (_unescaped(field) for field in fields[2:5])
    except (ValueError, IndexError):
        return None
    if not kind or b"\0" in line or not (shows and point.startswith(b"/")):
        return None
    shown = _UNPRINTABLE.sub(b"?", kind).decode("ascii")
    return Mount(Path(os.fsdecode(shows)), Path(os.fsdecode(point)), shown, os.fsdecode(device))


def _unescaped(field: bytes) -> bytes:
    return _ESCAPED.sub(lambda octal: bytes([int(octal[1], 8)]), field)


def file_system_of(path: Path, mountinfo: Path = MOUNTINFO) -> str:
    """The kind of file system that `path` lies on, empty when that cannot be found out. Raises OSError."""
    number = path.stat().st_dev
    device = f"{os.major(number)}:{os.minor(number)}"
    return next((mount.kind for mount in read_mounts(mountinfo) if mount.device == device), "")
