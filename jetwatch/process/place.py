"""Where the commands of runs live: a cgroup of their own where the agent may make one, else nothing.

A cgroup makes killing exact; without one the search in `tree.py` does it. What is missing is found out once, said
once, and never an error. On a machine that systemd manages, a subtree is touched only where it is delegated.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

_DELEGATE_ATTRIBUTES = ("trusted.delegate", "user.delegate")


@dataclass(frozen=True, slots=True)
class Place:
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
        """Remove the cgroups that nobody is in any more."""
        if self.root is None or not self.root.is_dir():
            return
        for path in self.root.iterdir():
            if path.is_dir():
                try:
                    path.rmdir()
                except OSError:
                    continue  # somebody lives there


def find_place(state_id: str, *, mounts: Path = Path("/proc/self/mountinfo"), proc: Path = Path("/proc/self")) -> Place:
    """What this machine and this agent's rights allow."""
    mounted = _cgroup2_mount(mounts)
    own = _own_group(proc)
    detach = os.getpid() != 1 and not _dies_with_unit(own)
    if mounted is None or own is None:
        return Place("none", None, detach)
    parent = mounted / own.lstrip("/")
    if not _may_make_groups(parent):
        return Place("none", None, detach)
    kind = "v2" if mounted == Path("/sys/fs/cgroup") else "hybrid"
    return Place(kind, parent / f"jetwatch-{state_id}", detach)


def _cgroup2_mount(mounts: Path) -> Path | None:
    try:
        lines = mounts.read_text().splitlines()
    except OSError:
        return None
    for line in lines:
        # proc_pid_mountinfo(5): the mount point is the fifth field, the type is the first one after " - ".
        before, _, after = line.partition(" - ")
        if after.startswith("cgroup2 "):
            return Path(before.split()[4])
    return None


def _own_group(proc: Path) -> str | None:
    try:
        lines = (proc / "cgroup").read_text().splitlines()
    except OSError:
        return None
    return next((line[3:] for line in lines if line.startswith("0::")), None)


def _may_make_groups(parent: Path) -> bool:
    if Path("/run/systemd/system").is_dir() and not _is_delegated(parent):
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


def _dies_with_unit(own: str | None) -> bool:
    """Whether systemd ends everything in the agent's unit with it: it does, unless the unit says KillMode=process.

    The unit that says so also sets JETWATCH_KILL_MODE, since asking systemd would need its bus.
    """
    in_service = bool(os.environ.get("INVOCATION_ID")) and bool(own) and str(own).endswith(".service")
    return in_service and os.environ.get("JETWATCH_KILL_MODE") not in ("process", "none")
