"""Start one command, pump its output, keep its time, end its tree: one blocking function.

The rules: no shell; nothing runs before `announce("started")` returned; the end of the pipe is not the end of the
command, nor the reverse; a timeout or a cancel ends everything that the command started, a normal exit ends nothing;
the exit status comes from this command's own wait and from no other. Used by a supervisor for the steps of a run and by
a worker thread of the agent for checks. Imports only a few modules of the standard library.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import resource
import select
import signal
import time

from jetwatch.process import tree

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from jetwatch.process.output import Counter, Writer
    from jetwatch.records import CommandSpec

    Announce = Callable[[str, dict[str, Any]], None]
    Document = dict[str, Any]

FORMAT = 1
OUTPUTS_LIMIT_BYTES = 64 * 1024
OUTPUTS_LIMIT_KEYS = 256
TAIL_BYTES = 4096
BLOCKED_AFTER_S = 5.0
_CHUNK_BYTES = 1024 * 1024
_F_SETPIPE_SZ = 1031
_CHECK_GRACE_S = 0.5  # a check is cancelled because its agent stops, within 2 s
_LONGEST_POLL_MS = 2**31 - 1
_OUTPUT_KEY = re.compile(r"[a-z][a-z0-9_]*\Z")
_GO = b"g"


def hold(
    spec: CommandSpec, writer: Writer | Counter, announce: Announce, wake_fd: int, *, supervisor: bool
) -> tuple[Document, int | None]:
    """Run `spec` to its end.

    Returns the fields of a `records.CommandResult`, and the reading end of the output pipe if somebody whom the
    command left running still holds the other end (None: nobody does, or `supervisor` is false).

    `announce(kind, facts)` is called with "started" before the command's first instruction (what it raises, the command
    does not survive), and with "blocked" when KILL does not end it. `supervisor` says that this process is the
    subreaper of the command and holds nothing else. A byte on `wake_fd` means: end it now. For a supervisor the bytes
    are numbers of signals: USR1 means that, CHLD that somebody is to be waited for.
    """
    return _Held(spec, writer, announce, wake_fd, supervisor).run()


class _Held:
    """One command between its fork and its result."""

    def __init__(
        self, spec: CommandSpec, writer: Writer | Counter, announce: Announce, wake_fd: int, supervisor: bool
    ) -> None:
        self.spec = spec
        self.writer = writer
        self.announce = announce
        self.wake_fd = wake_fd
        self.supervisor = supervisor
        self.tail = b""
        self.start_error = b""
        self.ending = ""
        self.pipe_is_open = True
        secrets = {spec.env[name].encode(errors="surrogateescape") for name in spec.secret_names if spec.env.get(name)}
        self.secrets = sorted(secrets, key=len, reverse=True)
        self.open_fds: set[int] = set()

    def run(self) -> tuple[Document, int | None]:
        try:
            outputs_fd = self._create_outputs()
        except OSError as error:
            return self._not_started("outputs", error.errno or 0), None
        try:
            if not self._fork():
                return self._not_started(*self._start_failure()), None
            self._release()
            status, usage = self._wait()
            document = self._result(status, usage, outputs_fd)
            if self.supervisor and self.pipe_is_open:
                self.open_fds.discard(self.output_fd)
                return document, self.output_fd
            return document, None
        finally:
            for fd in self.open_fds:
                os.close(fd)
            if self.spec.outputs_path:
                os.unlink(self.spec.outputs_path)

    # -- start

    def _create_outputs(self) -> int:
        """The file named by JETWATCH_OUTPUT, empty and the command's own."""
        if self.spec.outputs_path is None:
            return -1
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
        fd = os.open(self.spec.outputs_path, flags, 0o600)
        self.open_fds.add(fd)
        if self.spec.uid is not None:
            os.fchown(fd, self.spec.uid, -1)
        return fd

    def _pipe(self) -> tuple[int, int]:
        ends = os.pipe2(os.O_CLOEXEC)
        self.open_fds.update(ends)
        return ends

    def _close(self, fd: int) -> None:
        self.open_fds.discard(fd)
        os.close(fd)

    def _fork(self) -> bool:
        """A child that waits at the gate. False when there can be none."""
        self.output_fd, output_w = self._pipe()
        self.error_fd, error_w = self._pipe()
        gate_r, self.gate_fd = self._pipe()
        try:
            fcntl.fcntl(output_w, _F_SETPIPE_SZ, _CHUNK_BYTES)
        except OSError:
            pass  # over the user's pipe budget: a smaller pipe is only slower
        self.started_us = time.time_ns() // 1000
        self.started_at = time.monotonic()
        try:
            self.pid = os.fork()
        except OSError as error:
            self.start_error = f"fork:{error.errno or 0}".encode()
            return False
        if self.pid == 0:
            _become(self.spec, output_w, error_w, gate_r)
        for fd in (output_w, error_w, gate_r):
            self._close(fd)
        os.set_blocking(self.output_fd, False)
        os.set_blocking(self.error_fd, False)
        return True

    def _release(self) -> None:
        """Write down who it is, then open the gate."""
        self.pidfd = os.pidfd_open(self.pid)
        self.open_fds.add(self.pidfd)
        leader = tree.look_up(self.pid)
        if leader is None:
            raise ChildProcessError(errno.ECHILD, "somebody else waited for the command")
        if self.spec.cgroup:
            _join(self.spec.cgroup, self.pid)
        self.family = tree.Family(
            root=os.getpid() if self.supervisor else None,
            leader=(leader.pid, leader.start_ticks),
            mark=self.spec.mark,
            cgroup=self.spec.cgroup,
        )
        self.announce("started", {"pid": self.pid, "start_ticks": leader.start_ticks})
        os.write(self.gate_fd, _GO)
        self._close(self.gate_fd)

    # -- wait

    def _wait(self) -> tuple[int, resource.struct_rusage]:
        poller = select.poll()
        for fd in (self.output_fd, self.error_fd, self.pidfd, self.wake_fd):
            poller.register(fd, select.POLLIN)
        deadline = self.started_at + self.spec.timeout_s
        while True:
            left_ms = max(0.0, (deadline - time.monotonic()) * 1000)
            ready = {fd for fd, _ in poller.poll(min(left_ms, _LONGEST_POLL_MS))}
            if self.output_fd in ready and not self._pump():
                poller.unregister(self.output_fd)
            if self.error_fd in ready:
                self._read_error()
                poller.unregister(self.error_fd)
            if self.pidfd in ready:
                break
            if self.wake_fd in ready and self._is_cancel():
                self.ending = "cancelled"
                break
            if time.monotonic() >= deadline:
                self.ending = "timeout"
                break
        if self.ending:
            self._end_tree()
        _, status, usage = os.wait4(self.pid, 0)
        self._drain()
        self._read_error()
        return status, usage

    def _is_cancel(self) -> bool:
        if not self.supervisor:
            return True
        numbers = os.read(self.wake_fd, 4096)
        _reap_orphans(self.pid)
        return signal.SIGUSR1 in numbers

    def _read_error(self) -> None:
        try:
            self.start_error += os.read(self.error_fd, 256)
        except BlockingIOError:
            pass

    def _pump(self) -> bool:
        """Take one chunk from the pipe. False when there will be no more."""
        try:
            data = os.read(self.output_fd, _CHUNK_BYTES)
        except BlockingIOError:
            return True
        if not data:
            self.pipe_is_open = False
            return False
        self.writer.write(data, time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1000)
        self._keep_tail(data)
        return True

    def _keep_tail(self, data: bytes) -> None:
        # Room for the longest secret, so that one cut in half by the tail's beginning is still masked.
        keep = TAIL_BYTES + (len(self.secrets[0]) if self.secrets else 0)
        self.tail = (self.tail + data[-keep:])[-keep:]

    def _drain(self) -> None:
        """What is in the pipe now, and no more: a daemon may hold its other end for years."""
        end = self.writer.total_bytes + _CHUNK_BYTES
        before = -1
        while before < self.writer.total_bytes < end and self.pipe_is_open:
            before = self.writer.total_bytes
            self._pump()

    def _end_tree(self) -> None:
        """TERM, grace, KILL; returns when nobody is left, however long that takes."""
        tree.terminate(self.family)
        grace_s = self.spec.grace_s
        if self.ending == "cancelled" and not self.supervisor:
            grace_s = min(grace_s, _CHECK_GRACE_S)
        deadline = time.monotonic() + grace_s
        while self.family.members() and time.monotonic() < deadline:
            self._pump_for(0.05)
        told = False
        while survivors := tree.kill(self.family, patience_s=BLOCKED_AFTER_S, on_pause=self._pump_for):
            if not told:
                self.announce("blocked", {"pid": survivors[0].pid, "state": survivors[0].state})
                told = True

    def _pump_for(self, seconds: float) -> None:
        """Keep the output flowing while waiting, so that nobody hangs on a full pipe when asked to end."""
        ready, _, _ = select.select([self.output_fd], [], [], seconds)
        if ready and not self._pump():
            time.sleep(seconds)

    # -- result

    def _result(self, status: int, usage: resource.struct_rusage, outputs_fd: int) -> Document:
        if self.start_error:
            return self._not_started(*self._start_failure())
        ended_us = time.time_ns() // 1000
        document: Document = {
            "format": FORMAT,
            "step_id": self.spec.step_id,
            "ending": self.ending or ("signalled" if os.WIFSIGNALED(status) else "exited"),
            "exit_code": os.WEXITSTATUS(status) if os.WIFEXITED(status) else 128 + os.WTERMSIG(status),
            "signal": _signal_name(os.WTERMSIG(status)) if os.WIFSIGNALED(status) else None,
            "core_dumped": os.WIFSIGNALED(status) and os.WCOREDUMP(status),
            "pid": self.pid,
            "started_us": self.started_us,
            "ended_us": ended_us,
            "duration_s": round(time.monotonic() - self.started_at, 6),
            "cpu_user_s": round(usage.ru_utime, 6),
            "cpu_system_s": round(usage.ru_stime, 6),
            "max_rss_bytes": usage.ru_maxrss * 1024,
            "output_bytes": self.writer.total_bytes,
            "output_kept_bytes": self.writer.kept_bytes,
            "output_tail": self._masked_tail(),
            "left_running": len(self.family.members()) if self.supervisor else 0,
        }
        if outputs_fd >= 0 and document["ending"] == "exited":
            try:
                document["outputs"] = parse_outputs(_read_outputs(outputs_fd))
            except ValueError as error:
                document["reason"] = "bad_output"
                document["detail"] = f"JETWATCH_OUTPUT: {error}"
        return document

    def _start_failure(self) -> tuple[str, int]:
        stage, _, number = self.start_error.decode().partition(":")
        return stage, int(number)

    def _not_started(self, stage: str, number: int) -> Document:
        reason, detail = _why_not_started(self.spec, stage, number)
        return {
            "format": FORMAT,
            "step_id": self.spec.step_id,
            "ending": "not_started",
            "reason": reason,
            "detail": detail,
            "ended_us": time.time_ns() // 1000,
        }

    def _masked_tail(self) -> str:
        tail = self.tail
        for secret in self.secrets:
            tail = tail.replace(secret, b"***")
        return tail[-TAIL_BYTES:].decode("utf-8", "replace")


def _become(spec: CommandSpec, output_fd: int, error_fd: int, gate_fd: int) -> None:
    """In the forked child: become the command. Never returns.

    Between fork and exec this runs system calls only: it may be the child of a process with other threads.
    """
    stage = "setup"
    try:
        above = 3
        for fd in sorted((output_fd, error_fd, gate_fd)):
            os.closerange(above, fd)  # a lock above all: while it is open, this step counts as held
            above = fd + 1
        os.closerange(above, os.sysconf("SC_OPEN_MAX"))
        os.setsid()
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(output_fd, 1)
        os.dup2(output_fd, 2)
        if os.read(gate_fd, 1) != _GO:
            os._exit(0)  # the holder died before it could write down that this command runs
        for number in range(1, signal.NSIG):
            if number not in (signal.SIGKILL, signal.SIGSTOP):
                _default_signal(number)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        _reset_oom_score()
        stage = "limits"
        for name, value in spec.limits.items():
            resource.setrlimit(getattr(resource, f"RLIMIT_{name.upper()}"), (value, value))
        if spec.nice is not None:
            os.setpriority(os.PRIO_PROCESS, 0, spec.nice)
        os.umask(spec.umask)
        stage = "user"
        if spec.groups is not None:
            os.setgroups(spec.groups)
        if spec.gid is not None:
            os.setresgid(spec.gid, spec.gid, spec.gid)
        if spec.uid is not None:
            os.setresuid(spec.uid, spec.uid, spec.uid)
        stage = "cwd"
        os.chdir(spec.cwd)
        stage = "exec"
        os.execvpe(spec.argv[0], spec.argv, spec.env)  # noqa: S606 - no shell is the point
    except OSError as error:
        os.write(error_fd, f"{stage}:{error.errno or 0}".encode())
    except ValueError:
        os.write(error_fd, f"{stage}:{errno.EINVAL}".encode())
    finally:
        os._exit(127)


def _default_signal(number: int) -> None:
    try:
        signal.signal(number, signal.SIG_DFL)
    except (OSError, ValueError):
        pass  # a number that the C library keeps for itself


def _reset_oom_score() -> None:
    """A protected agent must not protect what it runs."""
    try:
        with open("/proc/self/oom_score_adj", "r+") as score:
            if int(score.read()) < 0:
                score.seek(0)
                score.write("0")
    except OSError:
        pass


def _join(cgroup: str, pid: int) -> None:
    try:
        with open(f"{cgroup}/cgroup.procs", "w") as target:
            target.write(str(pid))
    except OSError:
        pass  # descent, session and mark find the command as well


def _reap_orphans(command: int) -> None:
    """As subreaper, wait for dead orphans by their own pid; never for the command, whose status is the result."""
    while True:
        try:
            found = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:
            return
        if found is None or found.si_pid == command:
            return
        os.waitpid(found.si_pid, 0)


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"SIG{number}"


_REASONS = {
    ("exec", errno.ENOENT): ("no_such_file", "no such file"),
    ("exec", errno.ENOTDIR): ("no_such_file", "no such file"),
    ("exec", errno.EACCES): ("not_executable", "not executable for this user"),
    ("exec", errno.ENOEXEC): ("not_executable", "no program: a script needs a first line such as #!/bin/sh"),
    ("exec", errno.E2BIG): ("too_long", "its arguments and environment together are too long for the kernel"),
}
_STAGES = {"cwd": "bad_cwd", "user": "bad_user", "limits": "bad_limits", "outputs": "bad_outputs_file"}


def _why_not_started(spec: CommandSpec, stage: str, number: int) -> tuple[str, str]:
    """A stable code and a sentence for a command that never ran."""
    known = _REASONS.get((stage, number))
    if known:
        return known[0], f"{spec.argv[0]}: {known[1]}"
    code = _STAGES.get(stage, "not_startable")
    subject = {"cwd": f"cwd {spec.cwd}", "outputs": spec.outputs_path or ""}.get(stage, f"{spec.argv[0]} ({stage})")
    return code, f"{subject}: {os.strerror(number)}"


def _read_outputs(fd: int) -> bytes:
    size = os.fstat(fd).st_size
    if size > OUTPUTS_LIMIT_BYTES:
        raise ValueError(f"{size} bytes, and at most {OUTPUTS_LIMIT_BYTES} are taken")
    return os.pread(fd, OUTPUTS_LIMIT_BYTES, 0)


def parse_outputs(data: bytes) -> dict[str, str]:
    """The `key=value` lines of a JETWATCH_OUTPUT file. The last of two equal keys counts.

    Raises ValueError, with the line's number, for anything else: a key that is not `[a-z][a-z0-9_]*`, a NUL, bytes that
    are not UTF-8, more than 256 keys.
    """
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"not UTF-8 at byte {error.start}") from None
    outputs: dict[str, str] = {}
    for number, line in enumerate(text.split("\n"), start=1):
        if not line:
            continue
        key, equals, value = line.partition("=")
        if not equals or not _OUTPUT_KEY.match(key):
            raise ValueError(f"line {number} is not key=value with a key of a-z, 0-9 and _")
        if "\0" in value:
            raise ValueError(f"line {number} holds a NUL")
        outputs[key] = value
    if len(outputs) > OUTPUTS_LIMIT_KEYS:
        raise ValueError(f"{len(outputs)} keys, and at most {OUTPUTS_LIMIT_KEYS} are taken")
    return outputs
