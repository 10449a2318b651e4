"""Starts commands for the tests of this room as the agent does: held in this process, or under a supervisor.

Every process of a test carries its mark in the environment, so that the test can tell at its end who was left; a
hostile one that clears its environment writes itself down in a register instead.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import threading
import traceback
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace
from waiting import until

from jetwatch.process import launch, output, tree
from jetwatch.process.become import fork_here
from jetwatch.process.forks import Forks
from jetwatch.process.hold import hold
from jetwatch.records import CommandResult, CommandSpec, Evidence, ProcessId, Sight

SCRIPTS = Path(__file__).resolve().parent / "scripts"
MARK = "JETWATCH_TEST"
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
NOBODY = 65534


def need(condition: bool, reason: str) -> None:
    """Skip a test that cannot be run here; in CI, where everything must be there, fail it."""
    if condition:
        return
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)


def need_root() -> None:
    """For tests that become somebody else, mount, or make cgroups."""
    need(os.geteuid() == 0, "needs root")


@contextlib.contextmanager
def tmpfs(path: Path, options: str) -> Iterator[None]:
    """A small file system of its own at `path`, and nobody else's."""
    need_root()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", path], capture_output=True, check=False)
    need(done.returncode == 0, f"cannot mount: {done.stderr.decode()}")
    try:
        yield
    finally:
        subprocess.run(["umount", path], check=True)


def fill(path: Path) -> None:
    """Write `filler` until the disk is full to the last byte."""
    with (path / "filler").open("ab", buffering=0) as filler, contextlib.suppress(OSError):
        while True:
            filler.write(bytes(4096))


def children(parent: int) -> list[tree.Process]:
    """Every child of a process, dead or alive."""
    found = (tree.look_up(int(entry.name)) for entry in Path("/proc").iterdir() if entry.name.isdigit())
    return [process for process in found if process is not None and process.parent == parent]


@dataclass(frozen=True)
class Ended:
    """How a command ended, and all of its output that was kept."""

    result: CommandResult
    output: bytes


@dataclass(frozen=True)
class Step:
    """A command under a supervisor, as an agent knows it: by its directory."""

    spec: CommandSpec
    directory: Path
    supervisor: ProcessId | None

    def look(self) -> Evidence:
        """What the directory shows now."""
        return launch.look(self.directory, self.spec.step_id)

    def started(self) -> Evidence:
        """What it shows once the command has begun."""
        return until(lambda: (seen := self.look()).supervisor and seen)

    def dead(self) -> Evidence:
        """What it shows once nobody holds the lock any more."""
        return until(lambda: (seen := self.look()).sight is not Sight.ALIVE and seen)

    def end(self, within_s: float = 20.0) -> Ended:
        """Wait for the supervisor to leave; its command's result and output."""
        pidfd = launch.open_pidfd(self.supervisor) if self.supervisor else None
        if pidfd is not None:
            select.select([pidfd], [], [], within_s)
            os.close(pidfd)
        seen = until(lambda: (seen := self.look()).sight is not Sight.ALIVE and seen)
        assert seen.result is not None, f"no result: {seen}"
        return Ended(seen.result, stream(self.directory))

    def has_left(self) -> bool:
        """Whether the supervisor has ended (that nobody has waited for it yet does not count)."""
        pidfd = launch.open_pidfd(self.supervisor) if self.supervisor else None
        if pidfd is None:
            return True
        ready, _, _ = select.select([pidfd], [], [], 0)
        os.close(pidfd)
        return bool(ready)

    def kill_supervisor(self) -> None:
        """SIGKILL the supervisor, and wait until it is gone."""
        who = self.started().supervisor
        assert who is not None
        pidfd = launch.open_pidfd(who)
        assert pidfd is not None
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        select.select([pidfd], [], [], 10)
        os.close(pidfd)

    def bury(self) -> None:
        """End all that a dead supervisor left."""
        until(lambda: launch.bury(self.directory, self.spec.step_id, patience_s=5.0) is None)


def stream(directory: Path) -> bytes:
    """The output that is on disk, gaps closed."""
    return b"".join(data for _, _, data in output.read(str(directory)))


class Workbench:
    """Makes specs and starts them, below one directory."""

    def __init__(self, root: Path, mark: str) -> None:
        self.root = root
        self.mark = mark
        self.register = root / "register"
        self.register.touch()
        self.register.chmod(0o666)
        self._program: Path | None = None
        self._forks: Forks | None = None

    def open_to_all(self) -> None:
        """Let an agent that is another user work here."""
        for path in (self.root, self.root / "steps"):
            path.mkdir(exist_ok=True)
            path.chmod(0o777)

    @property
    def program(self) -> Path:
        """The installed supervisor."""
        if self._program is None:
            (self.root / "shim").mkdir(mode=0o700)
            self._program = launch.install(self.root / "shim")
        return self._program

    @property
    def forks(self) -> Forks:
        """With a forker, whom the next check is forked by."""
        if self._forks is None:
            self._forks = Forks(self.program, f"{MARK}={self.mark}", worth_forks=1, patience_s=60.0)
            self._forks.ways()
        return self._forks

    def close(self) -> None:
        """End what serves the tests."""
        if self._forks is not None:
            self._forks.close()

    def spec(self, command: str | Sequence[str], **changes: Any) -> CommandSpec:
        """A spec for `command` (text: for a shell), its environment as small as can be."""
        step_id = str(uuid.uuid4())
        mark = f"JETWATCH_STEP={step_id}"
        env = {"PATH": PATH, MARK: self.mark, "JETWATCH_STEP": step_id, **changes.pop("env", {})}
        argv = ("/bin/sh", "-c", command) if isinstance(command, str) else tuple(command)
        usual = CommandSpec(
            step_id=step_id,
            argv=argv,
            env=env,
            cwd="/",
            mark=mark,
            outputs_path=None,
            uid=None,
            gid=None,
            groups=None,
            umask=0o022,
            nice=None,
            limits={},
            timeout_s=60.0,
            grace_s=10.0,
            keep_bytes=64 * 1024 * 1024,
        )
        return replace(usual, **changes)

    def directory(self, spec: CommandSpec) -> Path:
        """A fresh step directory."""
        path = self.root / "steps" / spec.step_id
        path.mkdir(mode=0o700, parents=True)
        return path

    def as_check(
        self, command: str | Sequence[str], *, cancel_fd: int | None = None, forks: Forks | None = None, **changes: Any
    ) -> Ended:
        """Hold a command in this process to its end, as a worker of the agent does."""
        spec = self.spec(command, **changes)
        directory = self.directory(spec)
        never = os.eventfd(0, os.EFD_CLOEXEC)
        writer = output.Writer(str(directory), spec.keep_bytes)
        try:
            wake_fd = never if cancel_fd is None else cancel_fd
            ways = forks.ways() if forks is not None else (fork_here,)
            document, _ = hold(spec, writer, lambda _kind, _facts: None, wake_fd, supervisor=False, forks=ways)
        finally:
            os.close(never)
            writer.close()
        return Ended(msgspec.convert(document, CommandResult), stream(directory))

    def as_forked_check(self, command: str | Sequence[str], **changes: Any) -> Ended:
        """The same in a child that a forker made, and not this process itself."""
        forker = self.forks.pid
        ended = self.as_check(command, forks=self.forks, **changes)
        assert self.forks.pid == forker is not None, "the forker was to do it"
        return ended

    def start(self, command: str | Sequence[str], **changes: Any) -> Step:
        """Start a command under a supervisor."""
        return self.start_spec(self.spec(command, **changes))

    def start_spec(self, spec: CommandSpec) -> Step:
        """The same for a finished spec."""
        directory = self.directory(spec)
        return Step(spec, directory, launch.start(self.program, directory, spec))

    def as_step(self, command: str | Sequence[str], **changes: Any) -> Ended:
        """Run a command under a supervisor to its end."""
        return self.start(command, **changes).end()

    def cancelled_check(self, command: str | Sequence[str], *, when: Callable[[], object], **changes: Any) -> Ended:
        """Hold a command in this process, and cancel it as soon as `when` says so."""
        cancel_fd = os.eventfd(0, os.EFD_CLOEXEC)

        def cancel() -> None:
            until(when)
            os.eventfd_write(cancel_fd, 1)

        canceller = threading.Thread(target=cancel)
        canceller.start()
        try:
            return self.as_check(command, cancel_fd=cancel_fd, **changes)
        finally:
            canceller.join()
            os.close(cancel_fd)

    def cancelled_forked_check(self, command: str | Sequence[str], **changes: Any) -> Ended:
        """The same in a child that a forker made."""
        return self.cancelled_check(command, forks=self.forks, **changes)

    def cancelled_step(self, command: str | Sequence[str], *, when: Callable[[], object], **changes: Any) -> Ended:
        """The same under a supervisor."""
        step = self.start(command, **changes)
        until(when)
        launch.ask_to_stop(step.directory, step.spec.step_id)
        return step.end()

    def script(self, name: str, *words: str | Path) -> tuple[str, ...]:
        """The argv of one of the scripts beside this file."""
        return (sys.executable, "-I", "-S", str(SCRIPTS / name), *map(str, words))

    def hostile(self, *kinds: str) -> tuple[str, ...]:
        """The argv of a tree of processes that do not want to end; each writes itself down in the register."""
        return self.script("hostile.py", self.register, *kinds)

    def registered(self) -> list[tuple[int, int]]:
        """Pid and start time of everybody in the register."""
        lines = [line.split() for line in self.register.read_text().splitlines()]
        return [(int(pid), int(ticks)) for pid, ticks in lines]

    def survivors(self) -> list[int]:
        """Who of the register is alive."""
        found = ((pid, ticks, tree.look_up(pid)) for pid, ticks in self.registered())
        return [pid for pid, ticks, now in found if now and now.start_ticks == ticks and not now.is_dead]

    def left_behind(self) -> list[int]:
        """Every living process of this test: marked, registered, or a supervisor below its directory."""
        mark, below = f"{MARK}={self.mark}".encode(), os.fsencode(self.root)
        found = tree.meet_everybody(
            lambda process: (
                process.pid != os.getpid() and (below in command_line(process.pid) or mark in variables(process.pid))
            )
        )
        return sorted({*found, *self.survivors()})


def processes() -> list[tree.Process]:
    """Everybody who lives."""
    return list(tree.meet_everybody(lambda _process: True).values())


def command_line(pid: int) -> bytes:
    """The words of a process, each ended by NUL; nothing when it is gone."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def variables(pid: int) -> list[bytes]:
    """The environment of a process, whosever it is; nothing when it is gone."""
    try:
        return Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return []


def as_nobody(call: Callable[[], Any]) -> Any:
    """What `call` returns (something that JSON can hold) in a child that is user nobody."""
    need_root()
    read_fd, write_fd = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.close(read_fd)
            os.setgroups([])
            os.setresgid(NOBODY, NOBODY, NOBODY)
            os.setresuid(NOBODY, NOBODY, NOBODY)
            os.write(write_fd, json.dumps(call()).encode())
        except Exception:  # noqa: BLE001 - told to whoever reads the test's output
            traceback.print_exc()
        finally:
            os._exit(0)
    os.close(write_fd)
    with os.fdopen(read_fd) as source:
        text = source.read()
    os.waitpid(pid, 0)
    assert text, "the child raised"
    return json.loads(text)
