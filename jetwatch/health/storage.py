"""The state directory: whose it is, what it lies on, and how much room there is."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

from msgspec import Struct

from jetwatch.config.model import DiskReserve
from jetwatch.errors import NotTrusted
from jetwatch.health.finding import Case, Finding, Verdict, first
from jetwatch.journal.reserve import RESERVE_BYTES
from jetwatch.mounts import file_system_of
from jetwatch.statedir import REMOTE_KINDS
from jetwatch.telemetry.plain import size
from jetwatch.trust import Accounts, look_up

_IN_MEMORY = ("tmpfs", "ramfs")
_LAYERED = ("overlay", "aufs")
_WITHOUT_OWNERS = ("vfat", "exfat", "msdos", "ntfs", "ntfs3")


class Storage(Struct, frozen=True):
    """One directory of the agent's. `place`: it, or the nearest directory above that exists, of which all else is said.

    `free_inodes` is negative where they are not counted. `untrusted`: how another account could change where `path`
    leads, empty where none could.
    """

    path: Path
    place: Path
    owner_uid: int
    my_uid: int
    mode: int
    kind: str
    free_bytes: int
    free_inodes: int
    writable: bool
    read_only: bool = False
    no_programs: bool = False
    untrusted: str = ""

    @property
    def exists(self) -> bool:
        """Whether an agent has made it yet."""
        return self.place == self.path


def findings(facts: Storage, reserve: DiskReserve, subject: str = "state directory") -> Iterator[Finding]:
    """`reserve`: what the most demanding watch wants to be free before it starts a run."""
    yield _rights(facts, subject)
    yield _file_system(facts, subject)
    yield _room(facts, reserve)


def _rights(facts: Storage, subject: str) -> Finding:
    is_foreign = facts.owner_uid != facts.my_uid
    foreign = f"it belongs to uid {facts.owner_uid}, and this is uid {facts.my_uid}"
    cases: list[Case] = [
        (
            bool(facts.untrusted),
            Verdict.PROBLEM,
            f"{facts.untrusted}: the agent refuses it",
            "mend it, or name a directory of your own with --state-dir or download_dir",
        ),
        (
            not facts.exists and not facts.writable,
            Verdict.PROBLEM,
            f"not there, and this user may not make it below {facts.place}",
            "run as its owner, or name a directory of your own with --state-dir",
        ),
        (not facts.exists, Verdict.OK, f"not there yet; the agent makes it below {facts.place}", ""),
        (
            is_foreign and facts.my_uid == 0,
            Verdict.PROBLEM,
            f"{foreign}: an agent of root refuses it",
            f"chown root {facts.path}",
        ),
        (is_foreign, Verdict.PROBLEM, foreign, "run as its owner, or name another one with --state-dir"),
        (
            bool(facts.mode & 0o022),
            Verdict.PROBLEM,
            f"others may write to it (mode {facts.mode:04o})",
            f"chmod go-w {facts.path}",
        ),
        (
            not facts.writable and not facts.read_only,
            Verdict.PROBLEM,
            "its owner may not write to it",
            f"chmod u+rwx {facts.path}",
        ),
        (True, Verdict.OK, f"mode {facts.mode:04o}, uid {facts.owner_uid}", ""),
    ]
    verdict, found, advice = first(cases)
    return Finding("state_dir", verdict, subject, f"{facts.path}: {found}", advice)


def _file_system(facts: Storage, subject: str) -> Finding:
    kind = facts.kind or "kind unknown"
    cases: list[Case] = [
        (
            kind.startswith(REMOTE_KINDS),
            Verdict.PROBLEM,
            f"{kind}: locks and durability do not hold there; the agent refuses it",
            "name a directory on a local disk",
        ),
        (
            facts.read_only,
            Verdict.PROBLEM,
            f"{kind}, mounted read-only",
            "see the kernel's log for errors of the disk, or remount it",
        ),
        (
            kind in _WITHOUT_OWNERS,
            Verdict.PROBLEM,
            f"{kind}: it knows no owners and modes",
            "name a directory on another one",
        ),
        (
            kind in _IN_MEMORY,
            Verdict.WARNING,
            f"{kind}: gone at the next boot: what was applied, what is suspended, hooks that are owed",
            "name a directory on a disk, unless this is meant",
        ),
        (
            kind in _LAYERED,
            Verdict.WARNING,
            f"{kind}: the upper layer of a container or live system, gone with it",
            f"mount a volume at {facts.path}",
        ),
        (
            facts.no_programs,
            Verdict.WARNING,
            f"{kind}, mounted noexec: no file that was downloaded can be started by its own name",
            "start scripts as `sh {{ download_path }}/play.sh`",
        ),
        (True, Verdict.OK, kind, ""),
    ]
    verdict, found, advice = first(cases)
    return Finding("file_system", verdict, f"{subject}'s file system", found, advice)


def _room(facts: Storage, reserve: DiskReserve) -> Finding:
    inodes = f"{facts.free_inodes:,} inodes" if facts.free_inodes >= 0 else "inodes not counted"
    free = f"{size(facts.free_bytes)} and {inodes} free"
    wanted = f"disk_reserve is {size(reserve.free_bytes)} and {reserve.free_inodes:,} inodes"
    low_inodes = 0 <= facts.free_inodes < reserve.free_inodes
    advice = f"make room on the file system of {facts.place}; `retain` in watch.yml bounds what is kept"
    if facts.free_bytes < reserve.free_bytes or low_inodes:
        return Finding("space", Verdict.NOT_NOW, "space", f"{free}; {wanted}: no run starts", advice)
    if facts.free_bytes < 2 * (reserve.free_bytes + RESERVE_BYTES) or 0 <= facts.free_inodes < 2 * reserve.free_inodes:
        return Finding("space", Verdict.WARNING, "space", f"{free}; {wanted}", advice)
    return Finding("space", Verdict.OK, "space", free)


def read(path: Path) -> Storage:
    """What there is at `path`, or above it."""
    place = next(each for each in (path, *path.parents) if _is_there(each))
    facts, volume = place.stat(), os.statvfs(place)
    return Storage(
        path=path,
        place=place,
        owner_uid=facts.st_uid,
        my_uid=os.geteuid(),
        mode=stat.S_IMODE(facts.st_mode),
        kind=file_system_of(place),
        free_bytes=volume.f_bavail * volume.f_frsize,
        free_inodes=volume.f_favail if volume.f_files else -1,
        writable=os.access(place, os.W_OK | os.X_OK),
        read_only=bool(volume.f_flag & os.ST_RDONLY),
        no_programs=bool(volume.f_flag & os.ST_NOEXEC),
        untrusted=_untrusted(path),
    )


def _untrusted(path: Path) -> str:
    """What is above it; of the directory itself its owner and mode say enough."""
    try:
        os.close(look_up(path, Accounts.own()))
    except NotTrusted as error:
        return error.reason
    except OSError:
        return ""
    return ""


def _is_there(path: Path) -> bool:
    try:
        path.stat()
    except OSError:
        return False
    return True
