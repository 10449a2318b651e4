"""The supervisor of one command: a small process that is not tied to the agent's life.

Started as `python -I -S DIRECTORY STEP_DIRECTORY LOCK_FD` with the spec on its standard input; `launch.py` is the other
side. It holds the step's lock for as long as it lives, runs nothing before `started.json` stands, and ends with
`exit.json`, written durably or not at all. TERM, INT and HUP do not end it (a shutdown sends them to everybody); a file
`cancel` and USR1 do. A copy of this module, and of what it imports, lies in the state directory, so that an upgrade
cannot change a running one. Imports only a few modules of the standard library.
"""

from __future__ import annotations

import ctypes
import errno
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
ENDED_NAME = "jetwatch-ended"
"""What a supervisor calls itself once its command has ended: killing it now could only lose the result."""


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
    # What may find no room on the disk comes before the fork: the agent still listens, and hears why.
    room_fd = _reserve(f"{directory}/exit.json.new")
    writer = Writer(directory, spec.keep_bytes)
    pid = os.fork()
    if pid:
        sys.stdout.write(f"{pid}\n")
        sys.stdout.flush()
        os._exit(0)
    wake_fd = _leave_the_agent()
    document, pipe_fd = _supervise(directory, spec, writer, wake_fd)
    _call_myself(ENDED_NAME)
    _write_result(directory, room_fd, document)
    if spec.cgroup:
        tree.remove_cgroup(spec.cgroup)
    os.close(lock_fd)
    if pipe_fd is not None:
        _keep_reading(pipe_fd)
    sys.exit(0)


def _supervise(directory: str, spec: CommandSpec, writer: Writer, wake_fd: int) -> tuple[dict[str, Any], int | None]:
    """Hold one command from its start to its end, and leave notes of it in the step's directory."""

    def announce(kind: str, facts: dict[str, Any]) -> None:
        try:
            _write_atomically(f"{directory}/{kind}.json", _identity(spec, facts))
        except OSError:
            if kind == "started":
                raise  # no command runs unrecorded
        # Only now: who cancels leaves a file, then signals whom started.json names.
        if kind == "started" and os.path.exists(f"{directory}/cancel"):
            os.kill(os.getpid(), signal.SIGUSR1)

    document, pipe_fd = hold(spec, writer, announce, wake_fd, supervisor=True)
    writer.close()
    return document, pipe_fd


def _leave_the_agent() -> int:
    """Own name, own signals, nobody's terminal. Returns the descriptor that signals write their number to."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)
    _call_myself("jetwatch-shim")
    tree.lose_brand()
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


def _call_myself(name: str) -> None:
    _prctl(_PR_SET_NAME, ctypes.c_char_p(name.encode()))


def _prctl(option: int, argument: Any) -> None:
    ctypes.CDLL(None).prctl(option, argument, 0, 0, 0)


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
    try:
        os.posix_fallocate(fd, 0, _EXIT_ROOM_BYTES)
    except OSError:
        os.close(fd)
        raise
    return fd


def _write_atomically(path: str, data: bytes) -> None:
    """Whole or not there. Not fsynced: what it says counts within this boot only."""
    fd = os.open(f"{path}.new", os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        _expect_whole(os.write(fd, data), data)
    finally:
        os.close(fd)
    os.rename(f"{path}.new", path)


def _expect_whole(written: int, data: bytes) -> None:
    if written < len(data):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))  # a short write to a file means nothing else


def _write_result(directory: str, fd: int, document: dict[str, Any]) -> None:
    """Durable, or tried again each second for as long as there is a directory: meanwhile the lock stays held."""
    data = json.dumps(document).encode()
    while True:
        try:
            _expect_whole(os.pwrite(fd, data, 0), data)
            os.ftruncate(fd, len(data))
            os.fsync(fd)
            os.rename(f"{directory}/exit.json.new", f"{directory}/exit.json")
            _fsync_directory(directory)
        except OSError:
            if not os.path.isdir(directory):
                return  # removed under us: nobody will ever ask
            time.sleep(1)
            fd = _renewed(f"{directory}/exit.json.new", fd)
        else:
            os.close(fd)
            return


def _fsync_directory(path: str) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _renewed(path: str, fd: int) -> int:
    """A new file in place of the one that failed, of which nothing is assumed; the old one where there can be none."""
    try:
        new = _reserve(f"{path}.again")
    except OSError:
        return fd
    try:
        os.rename(f"{path}.again", path)
    except OSError:
        os.close(new)
        return fd
    os.close(fd)
    return new


def _keep_reading(pipe_fd: int) -> None:
    """Let a daemon that the command left behind go on writing: with nobody reading, the pipe would kill it.

    The step is over and its lock is free; the agent sees this process end, and a child of it reads, and forgets what it
    read. That child becomes `cat`, which takes next to no memory, where there is one.
    """
    os.set_blocking(pipe_fd, True)
    if os.fork():
        return
    os.dup2(pipe_fd, 0)
    try:
        os.execv("/bin/cat", ["cat"])  # noqa: S606 - no shell is the point
    except OSError:
        while os.read(0, 65536):
            pass


if __name__ == "__main__":
    main()
