"""What is mounted where, as the kernel tells it of this process."""

from __future__ import annotations

import os
import re
from pathlib import Path

from msgspec import Struct

MOUNTINFO = Path("/proc/self/mountinfo")
_ESCAPED = re.compile(rb"\\([0-7]{3})")


class Mount(Struct, frozen=True):
    """`shows`: which part of the file system (`/`: all of it) is seen at `point`. `kind`: ext4, tmpfs, cgroup2, …"""

    shows: Path
    point: Path
    kind: str


def read_mounts(mountinfo: Path = MOUNTINFO) -> list[Mount]:
    """All mounts, in the order in which they were made."""
    found = []
    for line in mountinfo.read_bytes().splitlines():
        # proc_pid_mountinfo(5): fields 4 and 5 are root and mount point, the type is the first one after " - ".
        before, _, after = line.partition(b" - ")
        shows, point = (_as_path(field) for field in before.split()[3:5])
        found.append(Mount(shows, point, after.split()[0].decode()))
    return found


def _as_path(field: bytes) -> Path:
    """Blanks and backslashes are written in octal; the rest is bytes."""
    return Path(os.fsdecode(_ESCAPED.sub(lambda octal: bytes([int(octal[1], 8)]), field)))
