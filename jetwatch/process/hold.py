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
import select
import signal
import stat
import struct
import termios
import time

from jetwatch.process import tree
from jetwatch.process.become import GO, MESSAGE_BYTES, fork_here, why_not_started
from jetwatch.process.output import LONGEST_FRAME_BYTES
from jetwatch.process.tail import Tail

TYPE_CHECKING = False
if TYPE_CHECKING:
    import resource
    from collections.abc import Callable
    from typing import Any

    from jetwatch.process.become import Fork
    from jetwatch.process.output import Counter, Writer
    from jetwatch.records import CommandSpec

    Announce = Callable[[str, dict[str, Any]], None]
    Document = dict[str, Any]

FORMAT = 1
OUTPUTS_LIMIT_BYTES = 64 * 1024
OUTPUTS_LIMIT_KEYS = 256
BLOCKED_AFTER_S = 5.0
_CHUNK_BYTES = LONGEST_FRAME_BYTES
_F_SETPIPE_SZ = 1031
_CHECK_GRACE_S = 0.5  # a check is cancelled because its agent stops, within 2 s
_LOOK_EVERY_S = 0.05
_LONGEST_POLL_MS = 2**31 - 1
_OUTPUT_KEY = re.compile(r"[a-z][a-z0-9_]*\Z")


def hold(
    spec: CommandSpec,
    writer: Writer | Counter,
    announce: Announce,
    wake_fd: int,
    *,
    supervisor: bool,
    forks: tuple[Fork, ...] = (fork_here,),
) -> tuple[Document, int | None]:
    """Run `spec` to its end.

    Returns the fields of a `records.CommandResult`, and the reading end of the output pipe if somebody whom the
    command left running still holds the other end (None: nobody does, or `supervisor` is false).

    `announce(kind, facts)` is called with "started" before the command's first instruction (what it raises, the command
    does not survive; a supervisor hears who that is), and with "blocked" when KILL does not end it. `supervisor` says
    that this process is the subreaper of the command and holds nothing else. A byte on `wake_fd` means: end it now. For
    a supervisor the bytes are numbers of signals: USR1 means that, CHLD that somebody is to be waited for. `forks`: the
    ways to a child, tried in their order.
    """
    return _Held(spec, writer, announce, wake_fd, supervisor=supervisor, forks=forks).run()


class _Held:
    """One command between its fork and its result."""

    def __init__(
        self,
        spec: CommandSpec,
        writer: Writer | Counter,
        announce: Announce,
        wake_fd: int,
        *,
        supervisor: bool,
        forks: tuple[Fork, ...],
    ) -> None:
        self.spec = spec
        self.writer = writer
        self.announce = announce
        self.wake_fd = wake_fd
        self.supervisor = supervisor
        self.forks = forks
        self.tail = Tail(os.fsencode(spec.env[name]) for name in spec.secret_names if name in spec.env)
        self.stage = ""
        self.start_error = b""
        self.ending = ""
        self.pipe_is_open = True
        self.open_fds: set[int] = set()

    def run(self) -> tuple[Document, int | None]:
        try:
            if not self._start():
                return self._not_started(), None
            self._release()
            status, usage = self._wait()
            document = self._result(status, usage)
            if self.supervisor and self.pipe_is_open:
                self.open_fds.discard(self.output_fd)
                return document, self.output_fd
            return document, None
        finally:
            for fd in self.open_fds:
                os.close(fd)
            self._forget_outputs()

    # -- start

    def _start(self) -> bool:
        """A child that waits at the gate. False when there can be none: `start_error` says why."""
        try:
            self._create_outputs()
            self._fork()
        except OSError as error:
            self.start_error = f"{self.stage}:{error.errno or 0}:".encode()
            return False
        try:
            self._recognize()
        except OSError as error:
            self._give_up()
            self.start_error = f"{self.stage}:{error.errno or 0}:".encode()
            return False
        return True

    def _create_outputs(self) -> None:
        """The file named by JETWATCH_OUTPUT, empty and the command's own."""
        if self.spec.outputs_path is None:
            return
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
        self.stage = "outputs"
        fd = os.open(self.spec.outputs_path, flags, 0o600)
        try:
            self._give_to_user(fd)
        finally:
            os.close(fd)

    def _give_to_user(self, fd: int) -> None:
        if self.spec.uid is not None:
            self.stage = "user"
            os.fchown(fd, self.spec.uid, -1)

    def _forget_outputs(self) -> None:
        try:
            if self.spec.outputs_path is not None:
                os.unlink(self.spec.outputs_path)
        except OSError:
            pass  # never made, removed by the command, or made into something else: swept with its run

    def _pipe(self) -> tuple[int, int]:
        ends = os.pipe2(os.O_CLOEXEC)
        self.open_fds.update(ends)
        return ends

    def _close(self, fd: int) -> None:
        self.open_fds.discard(fd)
        os.close(fd)

    def _fork(self) -> None:
        self.started_us = time.time_ns() // 1000
        self.started_at = time.monotonic()
        for fork in self.forks:
            if self._fork_by(fork):
                break
        os.set_blocking(self.output_fd, False)
        os.set_blocking(self.error_fd, False)

    def _fork_by(self, fork: Fork) -> bool:
        """Whether there is a child. It has pipes of its own: who comes to nothing may not wait at another's gate."""
        self.stage = "fork"
        self.output_fd, output_w = self._pipe()
        self.error_fd, error_w = self._pipe()
        gate_r, self.gate_fd = self._pipe()
        try:
            fcntl.fcntl(output_w, _F_SETPIPE_SZ, _CHUNK_BYTES)
        except OSError:
            pass  # over the user's pipe budget: a smaller pipe is only slower
        self._give_to_user(output_w)  # who opens /dev/stdout opens this pipe anew
        self.stage = "fork"
        pid = fork(self.spec, output_w, error_w, gate_r)
        for fd in (output_w, error_w, gate_r):
            self._close(fd)
        if pid is None:
            for fd in (self.output_fd, self.error_fd, self.gate_fd):
                self._close(fd)
            return False
        self.pid = pid
        return True

    def _recognize(self) -> None:
        """Know the child by more than its pid, while it cannot be anybody else.

        A supervisor writes down who it is, and counts whom it left. For a check only the end of its tree asks.
        """
        self.pidfd = os.pidfd_open(self.pid)
        self.open_fds.add(self.pidfd)
        if self.supervisor:
            self.family = self._find_family()
            if self.family.leader is None:
                raise ProcessLookupError(errno.ESRCH, "somebody else waited for the command")

    def _find_family(self) -> tree.Family:
        """To be asked before the child is waited for: then its number is given to others."""
        leader = tree.look_up(self.pid)
        return tree.Family(
            root=os.getpid() if self.supervisor else None,
            leader=(leader.pid, leader.start_ticks) if leader is not None else None,
            mark=self.spec.mark,
            cgroup=self.spec.cgroup,
        )

    def _give_up(self) -> None:
        """The child finds the gate shut, and leaves."""
        self._close(self.gate_fd)
        os.waitpid(self.pid, 0)

    def _release(self) -> None:
        """Write down who it is, then open the gate."""
        try:
            self.announce("started", self._join_and_tell() if self.supervisor else {})
        except BaseException:
            self._give_up()
            raise
        try:
            os.write(self.gate_fd, GO)
        except BrokenPipeError:
            pass  # somebody killed it at the gate: its exit status says so
        self._close(self.gate_fd)

    def _join_and_tell(self) -> dict[str, Any]:
        """Put the child into its cgroup, and say who and where it is."""
        cgroup = self.spec.cgroup
        if cgroup is not None and not tree.join_cgroup(cgroup, self.pid):
            self.family.cgroup = cgroup = None  # descent, session and mark find the command as well
        pid, start_ticks = self.family.leader or (self.pid, 0)
        return {"pid": pid, "start_ticks": start_ticks, "cgroup": cgroup}

    # -- wait

    def _wait(self) -> tuple[int, resource.struct_rusage]:
        poller = select.poll()
        for fd in (self.output_fd, self.pidfd, self.wake_fd):
            poller.register(fd, select.POLLIN)
        deadline = self.started_at + self.spec.timeout_s
        while True:
            left_ms = max(0.0, (deadline - time.monotonic()) * 1000)
            ready = {fd for fd, _ in poller.poll(min(left_ms, _LONGEST_POLL_MS))}
            if self.output_fd in ready and not self._pump(_CHUNK_BYTES):
                poller.unregister(self.output_fd)
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
            self.start_error += os.read(self.error_fd, MESSAGE_BYTES)
        except BlockingIOError:
            pass

    def _pump(self, at_most: int) -> bool:
        """Take one chunk from the pipe. False when there will be no more."""
        try:
            data = os.read(self.output_fd, at_most)
        except BlockingIOError:
            return True
        if not data:
            self.pipe_is_open = False
            return False
        self.writer.write(data, time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1000)
        self.tail.add(data)
        return True

    def _drain(self) -> None:
        """What is in the pipe now, and no more: a daemon may hold its other end, and write to it, for years."""
        if not self.pipe_is_open:
            return
        left = self._waiting_bytes()
        while left > 0 and self.pipe_is_open:
            before = self.writer.total_bytes
            self._pump(min(left, _CHUNK_BYTES))
            left -= self.writer.total_bytes - before
        if self._nobody_holds_the_pipe():
            while self._pump(_CHUNK_BYTES):
                continue

    def _waiting_bytes(self) -> int:
        (waiting,) = struct.unpack("i", fcntl.ioctl(self.output_fd, termios.FIONREAD, b"\0" * 4))
        return int(waiting)

    def _nobody_holds_the_pipe(self) -> bool:
        poller = select.poll()
        poller.register(self.output_fd, 0)
        return bool(poller.poll(0))  # asked for nothing, it still tells POLLHUP

    def _end_tree(self) -> None:
        """TERM, grace, KILL; returns when nobody is left, however long that takes."""
        if not self.supervisor:
            self.family = self._find_family()
        tree.terminate(self.family)
        grace_s = self.spec.grace_s
        if self.ending == "cancelled" and not self.supervisor:
            grace_s = min(grace_s, _CHECK_GRACE_S)
        deadline = time.monotonic() + grace_s
        while time.monotonic() < deadline and not self._is_gone():
            self._pump_for(_LOOK_EVERY_S)
        told = False
        while survivors := tree.kill(self.family, patience_s=BLOCKED_AFTER_S, on_pause=self._pump_for):
            if not told:
                self.announce("blocked", {"pid": survivors[0].pid, "state": survivors[0].state})
                told = True

    def _is_gone(self) -> bool:
        """Whether nobody is left. While the command itself lives, the others need not be looked for."""
        return _is_readable(self.pidfd, 0) and not self.family.members()

    def _pump_for(self, seconds: float) -> None:
        """Keep the output flowing while waiting, so that nobody hangs on a full pipe when asked to end."""
        if self.supervisor:
            _reap_orphans(self.pid)
        if not self.pipe_is_open:
            time.sleep(seconds)
            return
        if _is_readable(self.output_fd, seconds):
            self._pump(_CHUNK_BYTES)

    # -- result

    def _result(self, status: int, usage: resource.struct_rusage) -> Document:
        if self.start_error:
            return self._not_started()
        document: Document = {
            "format": FORMAT,
            "step_id": self.spec.step_id,
            "ending": self.ending or ("signalled" if os.WIFSIGNALED(status) else "exited"),
            "exit_code": os.WEXITSTATUS(status) if os.WIFEXITED(status) else 128 + os.WTERMSIG(status),
            "signal": _signal_name(os.WTERMSIG(status)) if os.WIFSIGNALED(status) else None,
            "core_dumped": os.WIFSIGNALED(status) and os.WCOREDUMP(status),
            "pid": self.pid,
            "started_us": self.started_us,
            "ended_us": time.time_ns() // 1000,
            "duration_s": round(time.monotonic() - self.started_at, 6),
            "cpu_user_s": round(usage.ru_utime, 6),
            "cpu_system_s": round(usage.ru_stime, 6),
            "max_rss_bytes": usage.ru_maxrss * 1024,
            "output_bytes": self.writer.total_bytes,
            "output_kept_bytes": self.writer.kept_bytes,
            "output_tail": self.tail.text(),
            "left_running": len(self.family.members()) if self.supervisor else 0,
        }
        if self.spec.outputs_path is not None and document["ending"] == "exited":
            try:
                document["outputs"] = parse_outputs(_read_outputs(self.spec.outputs_path))
            except ValueError as error:
                document["reason"] = "bad_output"
                document["detail"] = f"JETWATCH_OUTPUT: {error}"
        return document

    def _not_started(self) -> Document:
        reason, detail = why_not_started(self.spec, self.start_error)
        return {
            "format": FORMAT,
            "step_id": self.spec.step_id,
            "ending": "not_started",
            "reason": reason,
            "detail": detail,
            "ended_us": time.time_ns() // 1000,
        }


def _is_readable(fd: int, within_s: float) -> bool:
    """Not by select(2), which fails for a number beyond 1,023: the agent may hold many commands."""
    poller = select.poll()
    poller.register(fd, select.POLLIN)
    return bool(poller.poll(within_s * 1000))


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


def _read_outputs(path: str) -> bytes:
    """What the command left there. It may have removed the file, or put another one in its place by a rename."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        return b""
    except OSError as error:
        raise ValueError(f"it is no file any more ({os.strerror(error.errno or 0)})") from None
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise ValueError("it is no file any more")
        data = os.read(fd, OUTPUTS_LIMIT_BYTES + 1)
    finally:
        os.close(fd)
    if len(data) > OUTPUTS_LIMIT_BYTES:
        raise ValueError(f"more than {OUTPUTS_LIMIT_BYTES} bytes")
    return data


def parse_outputs(data: bytes) -> dict[str, str]:
    """The `key=value` lines of a JETWATCH_OUTPUT file. The last of two equal keys counts; CR LF ends a line as LF does.

    Raises ValueError, with the line's number, for anything else: a key that is not `[a-z][a-z0-9_]*`, a NUL, bytes that
    are not UTF-8, more than 256 keys.
    """
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"not UTF-8 at byte {error.start}") from None
    outputs: dict[str, str] = {}
    for number, line in enumerate((line.removesuffix("\r") for line in text.split("\n")), start=1):
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
