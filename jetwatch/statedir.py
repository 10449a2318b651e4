"""Where everything lies on disk, with its owner and mode, and the lock that makes one agent the owner of it.

    lock  id  told  sent  journal.db  control.sock  the agent's own
    reserve                                       nothing but room: given up when the journal finds none
    runs/UUID/STEP.ATTEMPT/                       lock, started.json, exit.json, output: one start of one command
    runs/UUID/row.….json                          what is too long for a row of the journal
    runs/UUID/secrets/NAME.env                    secret values for the starts to come; gone when the run is settled
    hooks/ID.ATTEMPT/                             the same for hooks that belong to no run
    downloads/UUID/                               `download_path`
    exchange/STEP_ID                              a command's JETWATCH_OUTPUT file
    cache/WATCH@UID/                              what fetches of content use again: one account's
    shim/DIGEST/  trash/                          the supervisor's program · what is being removed

Everything is private to its owner, and nobody else can change where it lies (`trust.py`). Only where a watch has a
`user` of its own may others pass through (not list) the directories above that user's files.
"""

from __future__ import annotations

import fcntl
import os
import pwd
import uuid
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from msgspec import Struct

from jetwatch.errors import NotTrusted, StateDirBusy, StateDirError
from jetwatch.mounts import file_system_of
from jetwatch.records import is_text
from jetwatch.trust import Accounts, look_up

PRIVATE = 0o700
PASSABLE = 0o711
STALLED_NAME = "jetp-stalled"
"""What an agent calls itself while its journal cannot be written: it can say so nowhere else that lasts."""

_ROOT_STATE = Path("/var/lib/jetwatch")
_ROOT_SOCKET = Path("/run/jetwatch/control.sock")
REMOTE_KINDS = (
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
_INSIDE = ("runs", "hooks", "downloads", "exchange", "cache", "shim")
_PASSED_THROUGH = ("downloads", "exchange", "cache")
_FILES = ("lock", "id", "told", "sent", "reserve", "journal.db", "journal.db-wal", "journal.db-shm", "control.sock")
_OURS = frozenset((*_INSIDE, *_FILES, "trash", "lost+found"))


def choose(option: Path | None, environ: Mapping[str, str], configured: Path | None) -> Path:
    """The state directory: `--state-dir`, else JETWATCH_STATE_DIR, else `state_dir:`, else the place of this user.

    Raises StateDirError for a path that is not UTF-8: journal, log and templates could not hold it.
    """
    chosen = _chosen(option, environ, configured).absolute()
    if not is_text(str(chosen)):
        raise StateDirError(f"{str(chosen)!a}: a state directory's path must be UTF-8")
    return chosen


def _chosen(option: Path | None, environ: Mapping[str, str], configured: Path | None) -> Path:
    if option is not None:
        return option
    if environ.get("JETWATCH_STATE_DIR"):
        return Path(environ["JETWATCH_STATE_DIR"])
    if configured is not None:
        return configured
    if os.geteuid() == 0:
        return _ROOT_STATE
    said = Path(environ.get("XDG_STATE_HOME", ""))
    # The specification of XDG has relative paths ignored.
    return (said if said.is_absolute() else _home(environ) / ".local/state") / "jetwatch"


def _home(environ: Mapping[str, str]) -> Path:
    """HOME, else what the machine knows of this account."""
    if environ.get("HOME"):
        return Path(environ["HOME"])
    try:
        return Path(pwd.getpwuid(os.geteuid()).pw_dir)
    except KeyError:
        return Path("/")


class StateDir(Struct, frozen=True):
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
    def reserve(self) -> Path:
        """Space in reserve for the journal."""
        return self.root / "reserve"

    @property
    def told(self) -> Path:
        """Up to which event the log was written."""
        return self.root / "told"

    @property
    def sent(self) -> Path:
        """Up to which event the history was sent over HTTP."""
        return self.root / "sent"

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

    @property
    def caches(self) -> Path:
        """What fetches use again."""
        return self.root / "cache"

    def cache(self, watch: str, uid: int) -> Path:
        """What the fetches of one watch's content use again, while they run as this account. No name has an `@`."""
        return self.caches / f"{watch}@{uid}"

    def exchange(self, step_id: str) -> Path:
        """The JETWATCH_OUTPUT file of one start."""
        return self.root / "exchange" / step_id

    def state_id(self) -> str:
        """What tells this state directory from every other one (a GUID, made with it)."""
        return (self.root / "id").read_text().strip()


def prepare(layout: StateDir, *, passable: bool) -> None:
    """Make what is missing. `passable`: some watch runs as another user, who must get through to its own files.

    Raises StateDirError when a directory is not ours alone, or one above it could be changed by others, when it is on a
    network or FUSE file system, or cannot be written.
    """
    mode = PASSABLE if passable else PRIVATE
    try:
        _make(layout.root, mode)
        _refuse_remote(layout.root)
        for name in _INSIDE:
            if name != "downloads" or layout.downloads == layout.root / "downloads":
                _make(layout.root / name, mode if name in _PASSED_THROUGH else PRIVATE, inside=True)
        if layout.downloads != layout.root / "downloads":
            _make(layout.downloads, mode)
        _make_id(layout.root)
    except OSError as error:
        raise StateDirError(
            f"{error.filename or layout.root}: the state directory cannot be used: {error.strerror}. "
            "Name another one with --state-dir"
        ) from error


def _make(path: Path, mode: int, *, inside: bool = False) -> None:
    """A directory of ours, its missing parents too, with this mode. `inside`: it lies in the state directory.

    One that was there and holds other things than ours keeps its mode: somebody may have named `/` or a home directory.
    It is made passable where it has to be.
    """
    try:
        found = look_up(path, Accounts.own(), make=mode)
    except NotTrusted as error:
        raise StateDirError(
            f"{error}. Name another one with --state-dir (or download_dir, if it is that one)"
        ) from error
    try:
        folder = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=found)
    except OSError as error:
        error.filename = str(path)
        raise
    finally:
        os.close(found)
    try:
        _refuse_foreign(path, os.fstat(folder))
        _set_mode(folder, mode, inside=inside)
    finally:
        os.close(folder)


def _set_mode(folder: int, mode: int, *, inside: bool) -> None:
    found = os.fstat(folder).st_mode & 0o777
    all_ours = inside or set(os.listdir(folder)) <= _OURS
    wanted = mode if all_ours else found | (mode & 0o011)
    if found != wanted:
        os.fchmod(folder, wanted)


def _make_id(root: Path) -> None:
    """Written whole or not at all; of two that begin at the same time the first one counts."""
    if (root / "id").exists():
        return
    building = root / f"id.{os.getpid()}"
    building.unlink(missing_ok=True)
    fd = os.open(building, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        os.write(fd, f"{uuid.uuid4()}\n".encode())
        os.fsync(fd)
    finally:
        os.close(fd)
    with suppress(FileExistsError):
        (root / "id").hardlink_to(building)
    building.unlink()
    folder = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _refuse_foreign(path: Path, found: os.stat_result) -> None:
    if found.st_uid != os.geteuid():
        raise StateDirError(
            f"{path}: this directory belongs to uid {found.st_uid} and the agent runs as uid {os.geteuid()}: "
            "run as its owner, or name another one with --state-dir (or download_dir, if it is that one)"
        )
    if found.st_mode & 0o022:
        raise StateDirError(
            f"{path}: others may write to this directory, and so replace what lies in it: "
            f"name one of your own, or chmod go-w {path}"
        )


def _refuse_remote(root: Path) -> None:
    kind = file_system_of(root)
    if kind.startswith(REMOTE_KINDS):
        raise StateDirError(
            f"{root}: on a file system of kind {kind}, where locks and durability do not hold: "
            "name a directory on a local disk with --state-dir"
        )


def take_lock(layout: StateDir, start_ticks: int) -> int:
    """Become the one agent of this directory: a descriptor that holds the lock until it is closed.

    Raises StateDirBusy with the holder's pid, StateDirError when the file cannot be written.
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
    try:
        # In place, never emptied first: on a full disk the block that it has is the only one that it gets.
        line = f"{os.getpid()} {start_ticks}\n".encode()
        os.pwrite(fd, line, 0)
        os.ftruncate(fd, len(line))
    except OSError as error:
        os.close(fd)
        raise StateDirError(f"{layout.lock_file}: {error.strerror}") from error
    return fd


def read_holder(layout: StateDir) -> tuple[int, int] | None:
    """Pid and start time that the last holder of the lock wrote; whether it still lives is not said."""
    try:
        pid, start_ticks = layout.lock_file.read_text().split()
        return int(pid), int(start_ticks)
    except (OSError, ValueError):
        return None
