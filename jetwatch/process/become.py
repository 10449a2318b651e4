"""Between fork and exec: a child waits at a gate, then becomes the command, or says why it cannot.

The rule: the child makes system calls on values that were made before the fork, and no more. It may be the child of a
process with other threads, whose locks nobody will ever give back in it. What failed travels through a pipe as
`stage:errno:text`, and `why_not_started` makes a sentence of it. Imports next to nothing: a supervisor loads it, and a
forker (`forker.py`), of which every child is a copy.
"""

from __future__ import annotations

import errno
import fcntl
import gc
import os
import resource
import signal

from jetwatch.process import privileges, tree

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import NoReturn

    from jetwatch.records import CommandSpec

    Fork = Callable[[CommandSpec, int, int, int], int | None]
    """Makes a child of this process that becomes the command: given the ends of its output, error and gate pipes,
    returns its pid. None: there is none by this way, and what was given will never be used. Raises OSError."""

GO = b"g"
SIGNALS = tuple(int(number) for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP})
MESSAGE_BYTES = 1024
_DEFAULT_PATH = "/usr/bin:/bin"
_FIRST_FREE_FD = 3
_SHEBANG_BYTES = 256  # what the kernel looks at


class Program:
    """A spec made ready for exec: plain values only, with every place to look for its file."""

    def __init__(self, spec: CommandSpec) -> None:
        self.paths = [os.fsencode(path) for path in _candidates(spec)]
        self.argv = [os.fsencode(word) for word in spec.argv]
        words = os.fsencode("\0".join(word for pair in spec.env.items() for word in pair)).split(b"\0")
        self.env = dict(zip(words[::2], words[1::2], strict=False))
        self.cwd = os.fsencode(spec.cwd)
        self.cwd_is_given = spec.cwd_is_given
        self.umask = spec.umask
        self.nice = spec.nice
        self.groups = None if spec.groups is None else list(spec.groups)
        self.gid = spec.gid
        self.uid = spec.uid
        self.is_other_account = spec.uid is not None and spec.uid != os.geteuid()
        self.capabilities = spec.capabilities
        self.no_new_privileges = spec.no_new_privileges
        self.limits = list(_limits(spec))
        self.brand = (tree.Mark(spec.mark).brand, tree.hard_limit_of_brands())


def _limits(spec: CommandSpec) -> Iterator[tuple[str, int, int, int]]:
    """Name, number, soft and hard limit."""
    if spec.open_files is not None:
        yield "nofile", resource.RLIMIT_NOFILE, spec.open_files, resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    for name, value in spec.limits.items():
        yield name, getattr(resource, f"RLIMIT_{name.upper()}", -1), value, value


def _candidates(spec: CommandSpec) -> list[str]:
    name = spec.argv[0]
    if "/" in name:
        return [name]
    return [f"{folder or '.'}/{name}" for folder in spec.env.get("PATH", _DEFAULT_PATH).split(":")]


def fork_here(spec: CommandSpec, output_fd: int, error_fd: int, gate_fd: int) -> int:
    """Fork this process, and become the command in the child. A `Fork`."""
    program = Program(spec)
    # A signal between fork and exec is for this process: the child must not report it to our wakeup descriptor.
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        pid = os.fork()
        if pid == 0:
            become(program, output_fd=output_fd, error_fd=error_fd, gate_fd=gate_fd)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    return pid


def become(program: Program, *, output_fd: int, error_fd: int, gate_fd: int, is_plain: bool = False) -> NoReturn:
    """In a forked child: wait at the gate, then become the command.

    `is_plain`: it has nothing to give up, since its parent has only default signals, no protection, and nothing open
    but these descriptors and the standard ones. Else every signal is blocked.
    """
    stage, number, text = b"setup", errno.EINVAL, b""
    try:
        gc.disable()  # somebody else's objects must not be finalized here
        if not is_plain:
            output_fd, error_fd, gate_fd = _leave_everything_else(output_fd, error_fd, gate_fd)
            reset_oom_score()
            reset_signals()
        os.setsid()
        if os.read(gate_fd, 1) != GO:
            os._exit(0)  # the holder died before it could write down that this command runs
        _connect(output_fd)
        tree.brand(*program.brand)
        stage = b"limits"
        for name, limit, soft, hard in program.limits:
            text = name.encode()
            _set_limit(limit, soft, hard)
        stage, text = b"nice", b""
        if program.nice is not None:
            os.setpriority(os.PRIO_PROCESS, 0, program.nice)
        os.umask(program.umask)
        for stage, give_up in _RIGHTS:  # noqa: B007 - the name of what fails
            give_up(program)
        stage = b"cwd"
        _enter(program)
        stage = b"exec"
        stage, number, text = _execute(program)
    except OSError as error:
        number = error.errno or number
    finally:
        # Whatever else was raised is told as EINVAL: nothing may return from here.
        try:
            os.write(error_fd, b"%s:%d:%s" % (stage, number, text))
        finally:
            os._exit(127)


def _leave_everything_else(*fds: int) -> list[int]:
    """These descriptors, moved out of the way of 0, 1 and 2; all others closed, but for 0, 1 and 2.

    A lock above all: while it is open, its step counts as held.
    """
    kept = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, _FIRST_FREE_FD) for fd in fds]
    with os.scandir("/proc/self/fd") as entries:  # closing by range takes minutes where a billion may be open
        present = [int(entry.name) for entry in entries]
    for fd in present:
        if fd >= _FIRST_FREE_FD and fd not in kept:
            _close(fd)
    return kept


def _close(fd: int) -> None:
    try:
        os.close(fd)
    except OSError:
        return  # the listing's own


def reset_signals() -> None:
    """As at a login: every action the default one, nothing blocked. A TERM that came meanwhile is obeyed now."""
    for number in SIGNALS:
        try:
            signal.signal(number, signal.SIG_DFL)
        except (OSError, ValueError):
            continue  # a number that the C library keeps for itself
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def _enter(program: Program) -> None:
    """The working directory: the agent's own is no promise to a user who may not go there."""
    try:
        os.chdir(program.cwd)
    except OSError:
        if program.cwd_is_given:
            raise
        os.chdir("/")


def _leave_keys(program: Program) -> None:
    """Before the user changes, so that no quota of this user's can have it keep the agent's."""
    if program.is_other_account:
        privileges.leave_session_keyring()


def _bound_capabilities(program: Program) -> None:
    """Before the user changes: afterwards it would not be permitted."""
    if program.capabilities is not None:
        privileges.bound(program.capabilities)
        privileges.keep_over_change_of_user()


def _change_user(program: Program) -> None:
    if program.groups is not None:
        os.setgroups(program.groups)
    if program.gid is not None:
        os.setresgid(program.gid, program.gid, program.gid)
    if program.uid is not None:
        os.setresuid(program.uid, program.uid, program.uid)


def _keep_what_was_asked_for(program: Program) -> None:
    """Said in any case to another account: how the kernel would have it hangs on the bits that secure the agent."""
    if program.is_other_account:
        privileges.own_session_keyring()
        privileges.have(program.capabilities or 0, inherited=True)
    elif program.capabilities is not None:
        privileges.have(program.capabilities, inherited=False)
    if program.no_new_privileges:
        privileges.get_no_more()


_RIGHTS = (
    (b"keyring", _leave_keys),
    (b"capabilities", _bound_capabilities),
    (b"user", _change_user),
    (b"capabilities", _keep_what_was_asked_for),
)
"""What is given up, in this order, each with the name of its stage."""


def _connect(output_fd: int) -> None:
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(output_fd, 1)
    os.dup2(output_fd, 2)


def _set_limit(limit: int, soft: int, hard: int) -> None:
    try:
        resource.setrlimit(limit, (soft, hard))
    except ValueError as error:  # Python's word for EPERM, here
        raise PermissionError(errno.EPERM, "") from error


def reset_oom_score() -> None:
    """A protected agent must not protect what it runs."""
    try:
        fd = os.open("/proc/self/oom_score_adj", os.O_RDWR | os.O_CLOEXEC)
        if os.read(fd, 16).startswith(b"-"):
            os.pwrite(fd, b"0", 0)
    except OSError:
        return  # /proc is read-only: the score stays


def _execute(program: Program) -> tuple[bytes, int, bytes]:
    """Try each path as execvp(3) does. Returns only what went wrong."""
    number = errno.ENOENT
    for path in program.paths:
        try:
            os.execve(path, program.argv, program.env)  # noqa: S606 - no shell is the point
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ENOTDIR):
                if os.access(path, os.F_OK):
                    return b"interpreter", errno.ENOENT, _interpreter(path)
                continue
            if error.errno != errno.EACCES:
                return b"exec", error.errno or number, b""
            number = errno.EISDIR if _is_directory(path) else errno.EACCES
    return b"exec", number, b""


def _is_directory(path: bytes) -> bool:
    return os.access(path + b"/.", os.F_OK)


def _interpreter(path: bytes) -> bytes:
    """What the first line of a script names; empty when it is no script or cannot be read."""
    try:
        start = os.read(os.open(path, os.O_RDONLY | os.O_CLOEXEC), _SHEBANG_BYTES)
    except OSError:
        return b""
    words = start.split(b"\n")[0][2:].split(b" ") if start.startswith(b"#!") else []
    return next((word for word in words if word), b"")


_EXEC_REASONS = {
    errno.ENOENT: ("no_such_file", "no such file"),
    errno.ENOTDIR: ("no_such_file", "no such file"),
    errno.EACCES: ("not_executable", "not executable for this user"),
    errno.EISDIR: ("not_executable", "a directory, and no program"),
    errno.ENOEXEC: ("not_executable", "no program: a script needs a first line such as #!/bin/sh"),
    errno.E2BIG: ("too_long", "its arguments and environment together are too long for the kernel"),
}
_CODES = {
    "cwd": "bad_cwd",
    "user": "bad_user",
    "keyring": "bad_keyring",
    "capabilities": "bad_capabilities",
    "limits": "bad_limits",
    "nice": "bad_nice",
    "outputs": "bad_outputs_file",
}


def why_not_started(spec: CommandSpec, message: bytes) -> tuple[str, str]:
    """A stable code and a sentence for a command that never ran, from `stage:errno:text`."""
    stage, number, text = message.decode("utf-8", "replace").split(":", 2)
    code, sentence = _why(spec, stage, int(number), text)
    return code, sentence.encode("utf-8", "replace").decode()  # a name on disk may be no text


def _why(spec: CommandSpec, stage: str, number: int, text: str) -> tuple[str, str]:
    name = spec.argv[0]
    if stage == "interpreter":
        return "no_such_file", f"{name}: the file is there, but {_missing(text)}"
    if stage == "exec" and number in _EXEC_REASONS:
        code, reason = _EXEC_REASONS[number]
        where = "" if "/" in name or code != "no_such_file" else f" in PATH ({spec.env.get('PATH', _DEFAULT_PATH)})"
        return code, f"{name}: {reason}{where}"
    subject = {
        "cwd": f"cwd {spec.cwd}",
        "user": f"to run as uid {spec.uid}, gid {spec.gid}",
        "keyring": "a session keyring of its own",
        "capabilities": f"to limit capabilities to {spec.capabilities or 0:#x}",
        "limits": f"limit {text}: {spec.limits.get(text)}",
        "nice": f"nice {spec.nice}",
        "outputs": spec.outputs_path or "",
        "fork": f"{name}: no process for it",
    }.get(stage, f"{name} ({stage})")
    return _CODES.get(stage, "not_startable"), f"{subject}: {os.strerror(number)}"


def _missing(interpreter: str) -> str:
    if interpreter:
        return f"its interpreter {interpreter!r} is not"
    return "what the kernel needs to run it is not: a program for another system?"
