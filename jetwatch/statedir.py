"""Where everything lies on disk, with its owner and mode, and the lock that makes one agent the owner of it.

    lock  id  told  journal.db  control.sock      the agent's own
    runs/UUID/STEP.ATTEMPT/                       lock, started.json, exit.json, output: one start of one command
    runs/UUID/secrets/NAME.env                    secret values for the starts to come; gone when the run is settled
    hooks/ID.ATTEMPT/                             the same for hooks that belong to no run
    downloads/UUID/                               `download_path`
    exchange/STEP_ID                              a command's JETWATCH_OUTPUT file
    shim/DIGEST/  trash/                          the supervisor's program · what is being removed

Everything is private to its owner. Only where a watch has a `user` of its own may others pass through (not list) the
directories above that user's files.
"""

from __future__ import annotations

import fcntl
import os
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from jetwatch.errors import StateDirBusy, StateDirError

PRIVATE = 0o700
PASSABLE = 0o711
_ROOT_STATE = Path("/var/lib/jetwatch")
_ROOT_SOCKET = Path("/run/jetwatch/control.sock")
_REMOTE = (
    "nfs",
    "cifs",
    "smb",
    "fuse",
    "9p",
    "ceph",
    "gluster",
    "lustre",
    "afs",
    "beegfs",
    "gfs2",
    "ocfs2",
    "virtiofs",
)
_INSIDE = ("runs", "hooks", "downloads", "exchange", "shim", "trash")
_PASSED_THROUGH = ("downloads", "exchange")


def choose(option: Path | None, environ: Mapping[str, str], configured: Path | None) -> Path:
    """The state directory: `--state-dir`, else JETWATCH_STATE_DIR, else `state_dir:`, else the place of this user."""
    if option is not None:
        return option.absolute()
    if environ.get("JETWATCH_STATE_DIR"):
        return Path(environ["JETWATCH_STATE_DIR"]).absolute()
    if configured is not None:
        return configured.absolute()
    if os.geteuid() == 0:
        return _ROOT_STATE
    base = environ.get("XDG_STATE_HOME") or f"{environ.get('HOME', '/')}/.local/state"
    return Path(base).absolute() / "jetwatch"


@dataclass(frozen=True, slots=True)
class StateDir:
    """The layout below one root. `downloads` may lie elsewhere. Making one touches nothing."""

    root: Path
    downloads: Path

    @classmethod
    def at(cls, root: Path, downloads: Path | None = None) -> StateDir:
        """The layout below `root`."""
        return cls(root, downloads or root / "downloads")

    @property
    def journal(self) -> Path:
        """The SQLite file."""
        return self.root / "journal.db"

    @property
    def lock_file(self) -> Path:
        """Held by the one agent; never unlinked. Its text is `PID START_TICKS`, for messages."""
        return self.root / "lock"

    @property
    def told(self) -> Path:
        """Up to which event the log was written."""
        return self.root / "told"

    @property
    def socket(self) -> Path:
        """The control socket's standard place."""
        return _ROOT_SOCKET if self.root == _ROOT_STATE else self.root / "control.sock"

    @property
    def shim(self) -> Path:
        """Copies of the supervisor's program."""
        return self.root / "shim"

    @property
    def trash(self) -> Path:
        """What is being removed."""
        return self.root / "trash"

    @property
    def runs(self) -> Path:
        """One directory per run."""
        return self.root / "runs"

    @property
    def hooks(self) -> Path:
        """Deliveries of hooks that belong to no run."""
        return self.root / "hooks"

    def run(self, run_id: str) -> Path:
        """What the steps of one run left."""
        return self.runs / run_id

    def step(self, run_id: str, name: str, attempt: int) -> Path:
        """One start of one step of a run."""
        return self.run(run_id) / f"{name}.{attempt}"

    def hook(self, run_id: str | None, name: str, entry_id: int, attempt: int) -> Path:
        """One start of one hook: beside the steps of its run, if it has one."""
        if run_id is not None:
            return self.run(run_id) / f"{name}.{attempt}"
        return self.hooks / f"{entry_id}.{attempt}"

    def secrets(self, run_id: str, name: str) -> Path:
        """The secret environment of one command of a run."""
        return self.run(run_id) / "secrets" / f"{name}.env"

    def download(self, run_id: str) -> Path:
        """The run's `download_path`."""
        return self.downloads / run_id

    def exchange(self, step_id: str) -> Path:
        """The JETWATCH_OUTPUT file of one start."""
        return self.root / "exchange" / step_id

    def state_id(self) -> str:
        """What tells this state directory from every other one (a GUID, made with it)."""
        return (self.root / "id").read_text().strip()


def prepare(layout: StateDir, *, passable: bool) -> None:
    """Make what is missing. `passable`: some watch runs as another user, who must get through to its own files.

    Raises StateDirError when the directory is not ours, on a network or FUSE file system, or cannot be written.
    """
    try:
        _make(layout.root, PASSABLE if passable else PRIVATE)
        _refuse_foreign(layout.root)
        _refuse_remote(layout.root)
        for name in _INSIDE:
            if name != "downloads" or layout.downloads == layout.root / "downloads":
                _make(layout.root / name, PASSABLE if passable and name in _PASSED_THROUGH else PRIVATE)
        if layout.downloads != layout.root / "downloads":
            layout.downloads.mkdir(mode=PASSABLE if passable else PRIVATE, parents=True, exist_ok=True)
        if not (layout.root / "id").exists():
            _write_once(layout.root / "id", f"{uuid.uuid4()}\n")
    except OSError as error:
        raise StateDirError(
            f"{error.filename or layout.root}: the state directory cannot be used: {error.strerror}. "
            "Name another one with --state-dir"
        ) from error


def _make(path: Path, mode: int) -> None:
    """A directory of ours with this mode; one that is there already keeps its contents."""
    missing = not path.exists()
    if missing:
        path.mkdir(mode=PRIVATE, parents=True)
    if path.stat().st_mode & 0o777 != mode and path.stat().st_uid == os.geteuid():
        path.chmod(mode)


def _write_once(path: Path, text: str) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        os.write(fd, text.encode())
        os.fsync(fd)
    finally:
        os.close(fd)


def _refuse_foreign(root: Path) -> None:
    found = root.stat()
    if found.st_uid != os.geteuid():
        raise StateDirError(
            f"{root}: this state directory belongs to uid {found.st_uid} and the agent runs as uid {os.geteuid()}: "
            "run as its owner, or name another one with --state-dir"
        )
    if found.st_mode & 0o022:
        raise StateDirError(f"{root}: others may write to this state directory: chmod go-w {root}")


def _refuse_remote(root: Path) -> None:
    kind = file_system_of(root)
    if kind.startswith(_REMOTE):
        raise StateDirError(
            f"{root}: on a file system of kind {kind}, where locks and durability do not hold: "
            "name a directory on a local disk with --state-dir"
        )


def file_system_of(path: Path, mounts: Path = Path("/proc/self/mountinfo")) -> str:
    """The kind of file system that `path` lies on, empty when that cannot be found out."""
    device = path.stat().st_dev
    number = f"{os.major(device)}:{os.minor(device)}"
    for line in mounts.read_text().splitlines():
        # proc_pid_mountinfo(5): major:minor is the third field, the type is the first one after " - ".
        before, _, after = line.partition(" - ")
        if before.split()[2] == number:
            return after.split()[0]
    return ""


def take_lock(layout: StateDir, start_ticks: int) -> int:
    """Become the one agent of this directory: a descriptor that holds the lock until it is closed.

    Raises StateDirBusy with the holder's pid.
    """
    try:
        fd = os.open(layout.lock_file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise StateDirError(f"{layout.lock_file}: {error.strerror}") from error
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        holder = read_holder(layout)
        raise StateDirBusy(layout.root, holder[0] if holder else None) from None
    os.ftruncate(fd, 0)
    os.pwrite(fd, f"{os.getpid()} {start_ticks}\n".encode(), 0)
    return fd


def read_holder(layout: StateDir) -> tuple[int, int] | None:
    """Pid and start time that the last holder of the lock wrote; whether it still lives is not said."""
    try:
        pid, start_ticks = layout.lock_file.read_text().split()
        return int(pid), int(start_ticks)
    except (OSError, ValueError):
        return None
