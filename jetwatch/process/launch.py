"""The agent's side of a supervisor: start one, look at one, tell one to stop, bury a dead one.

The lock of a step is taken before the fork and handed over, so it is held without a gap: a held lock, and nothing
else, means alive. Evidence is read in one order: lock, `exit.json`, `started.json`. Who wrote `lost` has killed first.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta, Struct

from jetwatch import interpreter, packaged, trees
from jetwatch.bounded import NO_SUCH_FILE, read_file
from jetwatch.errors import CommandNotStarted
from jetwatch.process import tree
from jetwatch.process.shim import ENDED_NAME, boot_id, pid_namespace
from jetwatch.records import FORMAT, CommandResult, CommandSpec, Evidence, ProcessId, Sight, from_json

_PROGRAM = (
    "bounded.py",
    "trees.py",
    "process/__init__.py",
    "process/output.py",
    "process/tail.py",
    "process/tree.py",
    "process/privileges.py",
    "process/become.py",
    "process/hold.py",
    "process/shim.py",
    "process/forker.py",
)
_MAIN = b"""import sys

if sys.argv[1] == "--fork":
    from jetwatch.process.forker import main
else:
    from jetwatch.process.shim import main

main()
"""
_LOCK_FLAGS = os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC  # flock asks for no more, and a disk may have become read-only
_START_TIMEOUT_S = 30
_LOCK_PAUSE_S = 0.01
_NOTE_BYTES = 1024 * 1024  # exit.json has 512 KiB reserved, and a tail


def install(shim_root: Path) -> Path:
    """Copy the supervisor's program into the state directory, once per version of it. Returns a directory to run.

    A running agent's files may be replaced by an upgrade, or lie in an archive; a supervisor's must not.
    """
    sources = {name: packaged.read("jetwatch", name) for name in _PROGRAM}
    digest = hashlib.sha256(b"\0".join((*sources.values(), _MAIN)) + sys.version.encode()).hexdigest()[:16]
    target = shim_root / digest
    if target.is_dir():
        return target
    building = shim_root / f"{digest}.new"
    trees.remove(building)  # an agent was killed while it copied
    for folder in (building, building / "jetwatch", building / "jetwatch" / "process"):
        folder.mkdir(mode=0o700)
    _write_private(building / "jetwatch" / "__init__.py", b"")
    for name, data in sources.items():
        _write_private(building / "jetwatch" / name, data)
    _write_private(building / "__main__.py", _MAIN)
    _fsync_tree(building)
    building.rename(target)
    return target


def _write_private(path: Path, data: bytes) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    with os.fdopen(fd, "wb") as target:
        target.write(data)


def _fsync_tree(top: Path) -> None:
    for path in (*top.rglob("*"), top):
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)


def start(program: Path, directory: Path, spec: CommandSpec) -> ProcessId | None:
    """Start the supervisor of `spec` in the fresh step directory. Blocks some 20 ms, until it has left us.

    Returns who it is; None when it has ended already, or has not said it yet. Raises CommandNotStarted
    (`no_supervisor`) when it cannot be started at all; then nothing ran.
    """
    try:
        finished = _run_locked(program, directory, spec)
    except (OSError, subprocess.TimeoutExpired) as error:
        failure = f"the supervisor could not be started: {error}"
    else:
        if finished.returncode == 0:
            return _identify(directory, int(finished.stdout))
        said = finished.stderr.decode("utf-8", "replace").strip().splitlines()[-1:] or ["no reason given"]
        failure = f"the supervisor could not start: {said[0]}"
    if _is_held(directory):
        return None  # only its first process failed: the one that it had forked goes on
    raise CommandNotStarted("no_supervisor", failure)


def _run_locked(program: Path, directory: Path, spec: CommandSpec) -> subprocess.CompletedProcess[bytes]:
    lock_fd = os.open(directory / "lock", _LOCK_FLAGS, 0o600)
    try:
        fcntl.flock(lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return _run(program, directory, spec, lock_fd)
    finally:
        os.close(lock_fd)


def _run(program: Path, directory: Path, spec: CommandSpec, lock_fd: int) -> subprocess.CompletedProcess[bytes]:
    # The standard library's JSON, since a name on disk or in the environment may hold bytes that are no UTF-8.
    text = json.dumps(msgspec.to_builtins(spec)) + "\n"
    return subprocess.run(
        interpreter.isolated(str(program), str(directory), str(lock_fd)),
        input=text.encode(),
        capture_output=True,
        pass_fds=(lock_fd,),
        start_new_session=True,
        cwd="/",
        env={},
        timeout=_START_TIMEOUT_S,
        check=False,
    )


def _identify(directory: Path, pid: int) -> ProcessId | None:
    found = tree.look_up(pid)
    if found is None or not _is_held(directory):
        return None
    # The lock is held, so its holder was alive when its number was looked up: nobody else can have had it.
    return ProcessId(pid, found.start_ticks, boot_id())


def _is_held(directory: Path) -> bool:
    try:
        lock_fd = _take_lock(directory)
    except OSError:
        return False
    if lock_fd is not None:
        os.close(lock_fd)
    return lock_fd is None


def look(directory: Path, step_id: str) -> Evidence:
    """What the step's directory shows now. Reads a few small files of our own; never waits."""
    if not directory.is_dir():
        return Evidence(Sight.NEVER_RAN)
    try:
        lock_fd = _take_lock(directory)
    except FileNotFoundError:  # it was never handed to anybody
        return _evidence_of_the_dead(directory, step_id)
    if lock_fd is None:
        started = _started(directory, step_id)
        blocked = _blocked(directory)
        return Evidence(
            Sight.ALIVE,
            supervisor=_supervisor(started),
            since_monotonic_us=started.monotonic_us if started else None,
            blocked=(blocked.pid, blocked.state) if blocked else None,
        )
    try:
        return _evidence_of_the_dead(directory, step_id)
    finally:
        os.close(lock_fd)


def _evidence_of_the_dead(directory: Path, step_id: str) -> Evidence:
    result = read_result(directory, step_id)
    if result is not None:
        return Evidence(Sight.DONE, result=result)
    return Evidence(Sight.GONE if _began(directory) else Sight.NEVER_RAN)


def _began(directory: Path) -> bool:
    """Whether a command may have run. What stands in started.json does not matter: it may be of a newer version."""
    return os.path.lexists(directory / "started.json")


def _take_lock(directory: Path) -> int | None:
    """The step's lock; None when somebody holds it. Raises FileNotFoundError; makes none: there may be no room."""
    fd = os.open(directory / "lock", os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        return None
    return fd


def read_result(directory: Path, step_id: str) -> CommandResult | None:
    """The result in `exit.json`; None when there is none, or it is torn, of another step or of a newer format."""
    try:
        result = from_json(_read_note(directory / "exit.json"), CommandResult)
    except (FileNotFoundError, ValueError):
        return None
    return result if result.step_id == step_id and result.format <= FORMAT else None


def _read_note(path: Path) -> bytes:
    """A file that a supervisor left. Raises ValueError where it is no such file: a link, a FIFO, longer than any."""
    try:
        return read_file(path, _NOTE_BYTES)
    except OSError as error:
        if error.errno in NO_SUCH_FILE:
            raise ValueError(str(error)) from error
        raise


_Pid = Annotated[int, Meta(ge=1, le=4_194_304)]
"""A number that a process can have (PID_MAX_LIMIT): 0 and those below it name whole groups of processes."""


class _Started(Struct, frozen=True):
    """The parts of started.json that are looked at."""

    step_id: str
    boot_id: str
    pid_namespace: str
    supervisor_pid: _Pid
    supervisor_start_ticks: int
    pid: _Pid
    start_ticks: int
    monotonic_us: int
    cgroup: str | None = None


class _Blocked(Struct, frozen=True):
    """The parts of blocked.json that are looked at."""

    pid: _Pid
    state: str


def _blocked(directory: Path) -> _Blocked | None:
    try:
        return from_json(_read_note(directory / "blocked.json"), _Blocked)
    except (FileNotFoundError, ValueError):
        return None


def _started(directory: Path, step_id: str) -> _Started | None:
    try:
        started = from_json(_read_note(directory / "started.json"), _Started)
    except (FileNotFoundError, ValueError):
        return None
    return started if started.step_id == step_id and started.boot_id == boot_id() else None


def _counts_pids_as_we_do(started: _Started) -> bool:
    return started.pid_namespace == pid_namespace()


def _supervisor(started: _Started | None) -> ProcessId | None:
    """Who holds the lock, if it said so and can be known for sure to be the same process."""
    if started is None or not _counts_pids_as_we_do(started):
        return None
    return ProcessId(started.supervisor_pid, started.supervisor_start_ticks, started.boot_id, started.cgroup)


def open_pidfd(process: ProcessId) -> int | None:
    """A descriptor that becomes readable when this very process ends; None when it has ended."""
    try:
        fd = os.pidfd_open(process.pid)
    except ProcessLookupError:
        return None
    found = tree.look_up(process.pid)
    if found is None or found.start_ticks != process.start_ticks:
        os.close(fd)
        return None
    return fd


def ask_to_stop(directory: Path, step_id: str) -> None:
    """Cancel a held command: a file for a supervisor that is still starting, a signal for one that waits."""
    with contextlib.suppress(OSError):  # a full disk: one that has started is told all the same
        (directory / "cancel").touch(mode=0o600)
    _signal(directory, step_id, signal.SIGUSR1)


def end_supervisor(directory: Path, step_id: str) -> None:
    """KILL a supervisor that is far over its time. What it held is buried afterwards.

    One whose command has ended, and that only waits for a disk to take the result, is let be.
    """
    process = _supervisor(_started(directory, step_id))
    if process is not None and tree.name_of(process.pid) != ENDED_NAME:
        _signal(directory, step_id, signal.SIGKILL)


def _signal(directory: Path, step_id: str, number: int) -> None:
    process = _supervisor(_started(directory, step_id))
    if process is not None and (pidfd := open_pidfd(process)) is not None:
        try:
            signal.pidfd_send_signal(pidfd, number)
        except (ProcessLookupError, PermissionError):  # it has ended, or is another account's and no supervisor of ours
            pass
        finally:
            os.close(pidfd)


def bury(directory: Path, step_id: str, patience_s: float) -> tuple[int, str] | None:
    """Take a dead supervisor's lock and end everything that it left.

    Returns pid and state of one who cannot be ended, None when all are gone. Blocks up to `patience_s`. Called again
    until nobody is left; only then may the step be called lost.
    """
    if not _began(directory):
        return None
    started = _started(directory, step_id)
    try:
        lock_fd = _wait_for_lock(directory, patience_s)
    except FileNotFoundError:  # somebody removed it; what it guarded is still to be ended
        lock_fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    if lock_fd is None:
        holder = tree.look_up(started.supervisor_pid) if started else None
        return started.supervisor_pid if started else 0, holder.state if holder else "?"
    try:
        if read_result(directory, step_id) is not None:
            return None
        cgroup = started.cgroup if started else None
        family = tree.Family(
            root=None,
            leader=(started.pid, started.start_ticks) if started and _counts_pids_as_we_do(started) else None,
            mark=f"JETWATCH_STEP={step_id}",
            cgroup=cgroup,
        )
        survivors = tree.kill(family, patience_s=patience_s)
        if cgroup and not survivors:
            tree.remove_cgroup(cgroup)
        return (survivors[0].pid, survivors[0].state) if survivors else None
    finally:
        os.close(lock_fd)


def _wait_for_lock(directory: Path, patience_s: float) -> int | None:
    """A child that some thread of ours forked a moment ago may still have a copy of a descriptor of the lock."""
    deadline = time.monotonic() + patience_s
    while (lock_fd := _take_lock(directory)) is None and time.monotonic() < deadline:
        time.sleep(_LOCK_PAUSE_S)
    return lock_fd


def end_all_marked(mark: str, patience_s: float) -> None:
    """End every process that carries `mark` (`NAME=value`) in its environment."""
    tree.kill(tree.Family(root=None, leader=None, mark=mark, cgroup=None), patience_s=patience_s)
