"""Where the commands of runs live: a cgroup of their own where the agent may make one, else nothing.

A cgroup makes killing exact; without one the search in `tree.py` does it. What is missing is found out once, said
once, and never an error. On a machine that systemd manages, a subtree is touched only where it is delegated.
"""

from __future__ import annotations

import os
from pathlib import Path

from msgspec import Struct

from jetwatch.bounded import read_proc
from jetwatch.mounts import MOUNTINFO, Mount, read_mounts
from jetwatch.process import tree

_DELEGATE_ATTRIBUTES = ("trusted.delegate", "user.delegate")
_GROUPS_BYTES = 64 * 1024  # a path (4 KiB) for each of the kernel's dozen hierarchies


class Place(Struct, frozen=True):
    """`kind`: v2, hybrid or none. `root`: where cgroups are made. `detach`: a run outlives the agent."""

    kind: str
    root: Path | None
    detach: bool

    def new_cgroup(self, step_id: str) -> str | None:
        """A fresh cgroup for one command; None where there can be none."""
        if self.root is None:
            return None
        path = self.root / step_id
        try:
            path.mkdir(mode=0o755, parents=True, exist_ok=True)
        except OSError:
            return None
        return str(path)

    def sweep(self) -> None:
        """Remove the cgroups that nobody is in any more. One that is about to be joined is made again by its holder."""
        if self.root is not None:
            tree.remove_cgroup(str(self.root))


def find_place(
    state_id: str,
    *,
    mountinfo: Path = MOUNTINFO,
    proc: Path = Path("/proc/self"),
    systemd: Path = Path("/run/systemd/system"),
) -> Place:
    """What this machine and this agent's rights allow. `systemd` is there where systemd manages the machine."""
    own = _own_group(proc)
    detach = os.getpid() != 1 and not _dies_with_unit(own)
    mount = _cgroup2_mount(mountinfo)
    parent = _seen_through(mount, own) if mount is not None and own is not None else None
    if mount is None or parent is None or not _may_make_groups(parent, systemd):
        return Place("none", None, detach)
    kind = "v2" if mount.point == Path("/sys/fs/cgroup") else "hybrid"
    return Place(kind, parent / f"jetwatch-{state_id}", detach)


def _cgroup2_mount(mountinfo: Path) -> Mount | None:
    try:
        return next((mount for mount in read_mounts(mountinfo) if mount.kind == "cgroup2"), None)
    except OSError:
        return None


def _own_group(proc: Path) -> Path | None:
    try:
        lines = read_proc(proc / "cgroup", _GROUPS_BYTES).split(b"\n")  # a group's name holds any byte but this
    except OSError:
        return None
    return next((Path(os.fsdecode(line[3:])) for line in lines if line.startswith(b"0::")), None)


def _seen_through(mount: Mount, group: Path) -> Path | None:
    """Where the group's directory is; None when this mount does not show it (a container without its own namespace)."""
    if ".." in group.parts or not group.is_relative_to(mount.shows):
        return None
    return mount.point / group.relative_to(mount.shows)


def _may_make_groups(parent: Path, systemd: Path) -> bool:
    if systemd.is_dir() and not _is_delegated(parent):
        return False
    return os.access(parent, os.W_OK) and os.access(parent / "cgroup.procs", os.W_OK)


def _is_delegated(parent: Path) -> bool:
    for name in _DELEGATE_ATTRIBUTES:
        try:
            if os.getxattr(parent, name) == b"1":
                return True
        except OSError:
            continue
    return False


def _dies_with_unit(own: Path | None) -> bool:
    """Whether everything around the agent is ended with it: a systemd unit without KillMode=process, a container.

    JETWATCH_KILL_MODE says it outright; asking systemd would need its bus, and a container does not show.
    """
    said = os.environ.get("JETWATCH_KILL_MODE")
    if said:
        return said not in ("process", "none")
    return bool(os.environ.get("INVOCATION_ID")) and own is not None and own.suffix == ".service"
