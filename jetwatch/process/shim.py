"""The supervisor of one command: a small process that is not tied to the agent's life.

Started as `python -I -S DIRECTORY STEP_DIRECTORY LOCK_FD` with the spec on its standard input; `launch.py` is the other
side. It holds the step's lock for as long as it lives, runs nothing before `started.json` stands, and ends with
`exit.json`, written durably or not at all. TERM, INT and HUP do not end it (a shutdown sends them to everybody); a file
`cancel` and USR1 do. A copy of this module, and of what it imports, lies in the state directory, so that an upgrade
cannot change a running one. Imports only a few modules of the standard library.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys
import time

from jetwatch.process import tree
from jetwatch.process.hold import FORMAT, hold
from jetwatch.process.output import Writer

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NoReturn

    from jetwatch.records import CommandSpec

_PR_SET_CHILD_SUBREAPER = 36
_PR_SET_NAME = 15
_EXIT_ROOM_BYTES = 512 * 1024  # outputs of 64 KiB, each byte escaped at worst, and a tail
_INCOMPLETE = 65  # EX_DATAERR


class Spec:
    """The fields of a `records.CommandSpec`, read from the pipe."""

    def __init__(self, fields: dict[str, Any]) -> None:
        self.__dict__.update(fields)


def main() -> NoReturn:
    """Read the spec, leave the agent, hold the command, write its end."""
    directory, lock_fd = sys.argv[1], int(sys.argv[2])
    os.set_inheritable(lock_fd, False)
    text = sys.stdin.buffer.read()
    if not text.endswith(b"\n"):
        sys.exit(_INCOMPLETE)  # the agent died while it wrote: nothing ran
    spec: Any = Spec(json.loads(text))
    pid = os.fork()
    if pid:
        sys.stdout.write(f"{pid}\n")
        sys.stdout.flush()
        os._exit(0)
    supervise(directory, lock_fd, spec)
    sys.exit(0)


def supervise(directory: str, lock_fd: int, spec: CommandSpec) -> None:
    """Hold one command from its start to its durable result."""
    wake_fd = _leave_the_agent()
    room_fd = _reserve(f"{directory}/exit.json.new")
    writer = Writer(directory, spec.keep_bytes)

    def announce(kind: str, facts: dict[str, Any]) -> None:
        _write_atomically(f"{directory}/{kind}.json", _identity(spec, facts))

    if os.path.exists(f"{directory}/cancel"):  # asked for before there was anybody to signal
        os.kill(os.getpid(), signal.SIGUSR1)
    document, pipe_fd = hold(spec, writer, announce, wake_fd, supervisor=True)
    writer.close()
    _write_result(directory, room_fd, document)
    if spec.cgroup:
        _remove_cgroup(spec.cgroup)
    if pipe_fd is not None:
        _keep_reading(pipe_fd, lock_fd)


def _leave_the_agent() -> int:
    """Own name, own signals, nobody's terminal. Returns the descriptor that signals write their number to."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    libc.prctl(_PR_SET_NAME, b"jetwatch-shim", 0, 0, 0)
    os.chdir("/")
    os.umask(0o077)
    null = os.open(os.devnull, os.O_RDWR)
    for fd in (0, 1, 2):
        os.dup2(null, fd)
    os.close(null)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT):
        signal.signal(number, signal.SIG_IGN)
    wake_r, wake_w = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    signal.set_wakeup_fd(wake_w, warn_on_full_buffer=False)
    for number in (signal.SIGUSR1, signal.SIGCHLD):
        signal.signal(number, lambda _number, _frame: None)
    return wake_r


def _identity(spec: CommandSpec, facts: dict[str, Any]) -> bytes:
    own = tree.look_up(os.getpid())
    document = {
        "format": FORMAT,
        "step_id": spec.step_id,
        "boot_id": boot_id(),
        "pid_namespace": pid_namespace(),
        "monotonic_us": time.monotonic_ns() // 1000,
        "supervisor_pid": os.getpid(),
        "supervisor_start_ticks": own.start_ticks if own else 0,
        "cgroup": spec.cgroup,
        **facts,
    }
    return json.dumps(document).encode()


def boot_id() -> str:
    """The kernel's name for the time since the machine was last started."""
    with open("/proc/sys/kernel/random/boot_id") as source:
        return source.read().strip()


def pid_namespace() -> str:
    """In which pids are counted; a pid means nothing in another one."""
    return os.readlink("/proc/self/ns/pid")


def _reserve(path: str) -> int:
    """Room on disk for the result, taken before the command starts, so that a full disk cannot lose it."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    os.posix_fallocate(fd, 0, _EXIT_ROOM_BYTES)
    return fd


def _write_atomically(path: str, data: bytes) -> None:
    """Whole or not there. Not fsynced: what it says counts within this boot only."""
    fd = os.open(f"{path}.new", os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        os.write(fd, data)
    finally:
        os.close(fd)
    os.rename(f"{path}.new", path)


def _write_result(directory: str, fd: int, document: dict[str, Any]) -> None:
    """Durable, or tried again each second for ever: the lock stays held meanwhile, so nothing is lost."""
    data = json.dumps(document).encode()
    while True:
        try:
            os.pwrite(fd, data, 0)
            os.ftruncate(fd, len(data))
            os.fsync(fd)
            os.rename(f"{directory}/exit.json.new", f"{directory}/exit.json")
            folder = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            os.fsync(folder)
            os.close(folder)
        except OSError:
            time.sleep(1)
            # After a failed fsync nothing is assumed of this file: the next try writes a new one.
            fd = _reopened(f"{directory}/exit.json.new", fd)
        else:
            return


def _reopened(path: str, fd: int) -> int:
    try:
        new = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError:
        return fd
    os.close(fd)
    return new


def _remove_cgroup(path: str) -> None:
    try:
        os.rmdir(path)
    except OSError:
        pass  # somebody was left running on purpose; the agent removes it when it is empty


def _keep_reading(pipe_fd: int, lock_fd: int) -> None:
    """Let a daemon that the command left behind go on writing: with nobody reading, the pipe would kill it.

    The step is over: the lock goes, and the agent sees this process end; a child of it reads, and forgets what it read.
    """
    if os.fork():
        return
    os.close(lock_fd)
    os.set_blocking(pipe_fd, True)
    while os.read(pipe_fd, 65536):
        pass


if __name__ == "__main__":
    main()
